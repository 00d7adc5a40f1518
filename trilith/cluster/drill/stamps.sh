#!/bin/busybox sh
# User data of a machine that writes to its second disk as long as it lives, also when it is started again.
cat >/bin/stamps <<'END'
#!/bin/busybox sh
disk=/dev/vdb
say() { echo "stamps: $*" >/dev/console; }
until [ -b $disk ]; do sleep 1; done
life=$(cat /proc/sys/kernel/random/uuid)
say "begins life $life of boot $(cat /proc/sys/kernel/random/boot_id)"
dd if=$disk bs=64k count=63 2>/dev/null | tr -d '\0' >/run/stamps
found=$(awk '$2 != NR - 1 || ($1 != last && $1 in lives) {bad++} !($1 in lives) {n++} {lives[$1]; last = $1}
    END {print NR + 0, n + 0, bad + 0}' /run/stamps)
set -- $found
say "found $1 records of $2 lives, $3 out of order"
number=$1 slowest=0
while :; do
    read -r begun _ </proc/uptime
    if printf '%s %s\n' $life $number | dd of=$disk bs=512 seek=$number conv=sync,fsync,notrunc 2>/dev/null; then
        number=$((number + 1))
    else
        say "failed at $number"
    fi
    read -r ended _ </proc/uptime
    took=$((${ended%.*} - ${begun%.*}))
    [ $took -gt $slowest ] && slowest=$took
    say "wrote $number, slowest $slowest s"
    sleep 2
done
END
chmod 0755 /bin/stamps
echo '::respawn:/bin/stamps' >>/etc/inittab
echo '::respawn:/bin/busybox nc -ll -p 7 -e /bin/busybox cat' >>/etc/inittab
kill -HUP 1
