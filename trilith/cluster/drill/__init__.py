"""Failures made on purpose, and measured from outside: `trilith drill`.

site.py, rehearsed.py   where: a cloud on this machine, or a rehearsal's cluster
drills.py               what is broken and how, and the bar: data
meter.py                the measuring client, a process of its own: 20 requests a second, pings
load.py                 users at work meanwhile, who write down what they were promised
objects.py              users who write objects, and what became of these
measure.py              from samples to an outage, a latency, a verdict
run.py                  one drill from its first request to the last check
report.py, timeline.py  the table, JSON, the picture
"""
