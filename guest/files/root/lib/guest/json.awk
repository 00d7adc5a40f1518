# Flattens JSON to lines of PATH<tab>VALUE (/public_keys/mykey<tab>ssh-ed25519 ...). Values stay escaped, as printf %b reads them.
{ text = text $0 "\n" }
END { value(""); blank(); if (text != "") fail() }

function fail() { print "not JSON at: " substr(text, 1, 40) >"/dev/stderr"; failed = 1; exit 1 }
function blank() { sub(/^[ \t\r\n]+/, "", text) }
function take(pattern,    found) {
    blank()
    if (!match(text, pattern)) fail()
    found = substr(text, 1, RLENGTH)
    text = substr(text, RLENGTH + 1)
    return found
}
function next_is(mark) {
    blank()
    if (substr(text, 1, 1) != mark) return 0
    text = substr(text, 2)
    return 1
}
function string(    raw, out, mark, digits) {
    raw = take("^\"([^\"\\\\]|\\\\.)*\"")
    raw = substr(raw, 2, length(raw) - 2)
    gsub(/\t/, " ", raw)
    out = ""
    while (match(raw, /\\./)) {
        out = out substr(raw, 1, RSTART - 1)
        mark = substr(raw, RSTART + 1, 1)
        digits = substr(raw, RSTART + 2, 4)
        raw = substr(raw, RSTART + (mark == "u" ? 6 : 2))
        out = out (mark == "u" ? utf8(hex(digits)) : mark == "\"" || mark == "/" ? mark : "\\" mark)
    }
    return out raw
}
function hex(digits,    i, number) {
    number = 0
    for (i = 1; i <= 4; i++) number = number * 16 + index("0123456789abcdef", tolower(substr(digits, i, 1))) - 1
    return number
}
function octal(byte) { return sprintf("\\0%03o", byte) }
function utf8(code) {
    if (code < 128) return octal(code)
    if (code < 2048) return octal(192 + int(code / 64)) octal(128 + code % 64)
    return octal(224 + int(code / 4096)) octal(128 + int(code / 64) % 64) octal(128 + code % 64)
}
function value(path,    key, count) {
    if (failed) return
    blank()
    if (next_is("{")) {
        if (next_is("}")) return
        do { key = string(); take("^:"); value(path "/" key) } while (next_is(","))
        take("^}")
    } else if (next_is("[")) {
        if (next_is("]")) return
        count = 0
        do { value(path "/" count++) } while (next_is(","))
        take("^]")
    } else if (substr(text, 1, 1) == "\"") print path "\t" string()
    else print path "\t" take("^[-+.0-9A-Za-z]+")
}
