#!/bin/bash
# Runs in a systemd guest, once in each of its boots: see xtask/src/guest.rs. Every line that counts begins with "ok" or
# "FAILED". No packet leaves the guest: it has no network device.
set -u

SERIAL=$(sed 's/.*console=\([^ ]*\).*/\1/' /proc/cmdline)
exec >"/dev/$SERIAL" 2>&1

HERE=/srv/test
LOG=/var/log/imds-analyzer/events.jsonl
METRICS=http://127.0.0.1:9254/metrics
IMDS=http://169.254.169.254
PAGE=$IMDS/latest/meta-data/instance-id
UNIT=imds-analyzer.service
ERRORS=/run/test-output
# Runs its arguments with an empty bounding set; 24 is PR_CAPBSET_DROP. Not every system has setpriv(1).
WITHOUT_RIGHTS='import ctypes, os, sys
for i in range(64): ctypes.CDLL(None).prctl(24, i)
os.execvp(sys.argv[1], sys.argv[1:])'

say() { echo "@test $*"; }

# check WHAT COMMAND...: whether the command succeeds; what it printed, if not.
check() {
    local what=$1
    shift
    if "$@" >"$ERRORS" 2>&1; then
        say "ok $what"
        grep '^@test' "$ERRORS"
    else
        say "FAILED $what: $*"
        sed 's/^/@test   /' "$ERRORS" | head -20
    fi
}

# Succeeds when COMMAND does, within 30 s.
soon() {
    for _ in $(seq 150); do
        "$@" && return
        sleep 0.2
    done
    return 1
}

# With what the service said, if it does not start.
start() { systemctl start $UNIT || { journalctl -u $UNIT -o cat | tail -20; false; }; }

# What systemd has to say of the unit; before 247, that it does not know all of it.
complaints() {
    local unknown='nothing is'
    [ "$(systemctl --version | awk 'NR == 1 { print $2 }')" -ge 247 ] || unknown='Unknown lvalue'
    systemd-analyze verify --man=no $UNIT 2>&1 | grep imds-analyzer | grep -v "$unknown"
}

not() { ! "$@"; }
is() { [ "$(systemctl show -p "$1" --value "$UNIT")" = "$2" ]; }
contains() { grep -q -- "$2" "$1"; }

# A veth pair to a namespace where IMDS answers: calls leave the host's sockets as they do on EC2.
imds() {
    ip netns add imds
    ip link add imds0 type veth peer name imds1 netns imds
    ip addr add 10.99.0.1/24 dev imds0
    ip link set imds0 up
    ip -n imds addr add 169.254.169.254/32 dev imds1
    ip -n imds link set imds1 up
    ip -n imds link set lo up
    ip -n imds route add 10.99.0.0/24 dev imds1
    ip route add 169.254.169.254 dev imds0
    mkdir -p /run/imds/latest/meta-data
    echo i-0123456789abcdef0 >/run/imds/latest/meta-data/instance-id
    (cd /run/imds && exec ip netns exec imds python3 -m http.server --bind 169.254.169.254 80 >/dev/null 2>&1) &
    soon ip netns exec imds curl -s -o /dev/null "$PAGE?ready"
}

# Emulated, all is some thirty times slower than the unit's time limit is made for.
limit_of_tests() {
    mkdir -p /etc/systemd/system/$UNIT.d
    printf '[Service]\nTimeoutStartSec=90s\n' >/etc/systemd/system/$UNIT.d/test.conf
    systemctl daemon-reload
}

# record TEXT: waits for a record of a request whose path has TEXT, and shows what it says of the caller.
record() {
    soon contains "$LOG" "$1" || return
    grep -- "$1" "$LOG" | tail -1 >/run/record
    python3 - <<'PYTHON'
import json
r = json.load(open("/run/record"))
show = {k: r.get(k) for k in ("systemd", "container", "user")}
show["imds"] = {k: r["imds"].get(k) for k in ("version", "owner", "netns", "local", "caller")}
show["command"] = r.get("process", {}).get("command_line")
show["ancestors"] = [a.get("name") for a in r.get("process", {}).get("ancestors", [])]
print("@test   " + json.dumps(show))
PYTHON
}

# says TEXT: the record that was shown last has TEXT.
says() { contains /run/record "$1"; }

# NAME: the file below the root of the repository on loopback.
serve() {
    [ ! -e /run/server ] || kill "$(cat /run/server)"
    (cd "$HERE/$1" && exec python3 -m http.server --bind 127.0.0.1 8000 >/dev/null 2>&1) &
    echo $! >/run/server
    soon curl -s -o /dev/null http://127.0.0.1:8000/imds-analyzer.asc
    # Two repositories of the same second are one to apt.
    rm -rf /var/lib/apt/lists/*
    apt-get -qq update
}

apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -y "$@" </dev/null; }

install_and_use() {
    : >/etc/apt/sources.list
    rm -f /etc/apt/sources.list.d/*
    cp "$HERE/repo-now/imds-analyzer.list" /etc/apt/sources.list.d/
    check "without the key the repository is refused" not serve repo-now
    cp "$HERE/repo-now/imds-analyzer.asc" /usr/share/keyrings/
    check "apt-get update" serve repo-now
    check "apt-get install" apt install imds-analyzer
    check "inactive after install" is ActiveState inactive
    check "not enabled after install" is UnitFileState disabled
    check "systemd-analyze verify" not complaints
    say "  $(systemd-analyze --version | head -1), exposure: $(systemd-analyze security $UNIT 2>&1 | tail -1 | tr -cd '[:alnum:][:space:].:-')"
    check "every file is there" not sh -c "dpkg --verify imds-analyzer | grep missing"
    say "  $(imds-analyzer check 2>&1 | head -12 | tr '\n' '|')"

    sed -i 's/^enabled = false/enabled = true/; s/^# listen/listen/' /etc/imds-analyzer/config.toml
    check "config check" imds-analyzer config check
    limit_of_tests
    check "start" start
    check "active" is ActiveState active
    imds
    check "v1 from the host" curl -s -f "$PAGE?host"
    check "v1 from the host is recorded" record "instance-id?host"
    check "... as v1, of another host" says '"version":"v1".*"local":false'
    check "v1 from a namespace" ip netns exec imds curl -s -f "$PAGE?namespace"
    check "v1 from a namespace is recorded" record "instance-id?namespace"
    check "... as v1 of another namespace" says '"version":"v1".*"netns":"other"'
    check "journald entry" soon sh -c "journalctl -u $UNIT IMDS_VERSION=v1 -o cat | grep -q ."
    check "metric" soon sh -c "curl -s $METRICS | grep -q '^imds_analyzer_.*v1.* [1-9]'"
    say "  $(ls -l $LOG | cut -d' ' -f1,3,4), $(stat -c '%A %U %G' /var/log/imds-analyzer), $(grep -E 'VmRSS|CapEff' "/proc/$(systemctl show -p MainPID --value $UNIT)/status" | tr '\n\t' '  ')"
    check "reload" systemctl reload $UNIT
    check "active after reload" is ActiveState active

    # Who calls, in a real systemd.
    check "a unit calls" systemd-run --quiet --wait --unit=probe-job curl -s "$PAGE?unit"
    check "its record" record "instance-id?unit"
    check "... names the unit" says '"unit":"probe-job.service"'
    useradd --create-home alice
    loginctl enable-linger alice
    check "a user's manager runs" soon systemctl --quiet is-active user@1000.service
    soon test -S /run/user/1000/systemd/private
    check "a user's unit calls" runuser -u alice -- env XDG_RUNTIME_DIR=/run/user/1000 \
        systemd-run --user --quiet --unit=alice-job curl -s "$PAGE?user"
    check "its record" record "instance-id?user"
    check "... names the user's unit" says '"user_unit":"alice-job.service"'
    check "... and the user" says '"name":"alice"'
    check "a session calls" su - alice -c "curl -s $PAGE?session"
    check "its record" record "instance-id?session"
    check "... names the user" says '"name":"alice"'
    echo "* * * * * root /bin/sh -c 'curl -s $PAGE?cron'" >/etc/cron.d/probe
    mkdir -p /run/bundle/rootfs
    mount --bind / /run/bundle/rootfs
    (cd /run/bundle && runc spec && python3 - "$PAGE?container" <<'PYTHON'
import json, sys
c = json.load(open("config.json"))
c["process"]["terminal"] = False
c["process"]["args"] = ["curl", "-s", sys.argv[1]]
c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] != "network"]
c["linux"]["cgroupsPath"] = "system.slice:docker:" + "c0ffee" * 10 + "c0ff"
json.dump(c, open("config.json", "w"))
PYTHON
    )
    check "a container calls" runc --systemd-cgroup run --bundle /run/bundle probe
    check "its record" record "instance-id?container"
    check "... names the container" says '"container":{"id":"c0ffee'
    umount /run/bundle/rootfs
    check "cron calls" sh -c "for i in \$(seq 90); do grep -q 'instance-id?cron' $LOG && exit; sleep 1; done; exit 1"
    check "its record" record "instance-id?cron"
    check "... has cron's chain" says '"unit":"cron.service"'
    rm /etc/cron.d/probe

    # The wrong architecture: dpkg itself refuses.
    dpkg-deb --raw-extract "$HERE"/repo-now/apt/pool/main/imds-analyzer_*.deb /run/wrong
    sed -i 's/^Architecture: .*/Architecture: s390x/' /run/wrong/DEBIAN/control
    dpkg-deb --build --root-owner-group -Znone /run/wrong /run/wrong.deb >/dev/null
    check "wrong architecture is refused" sh -c "dpkg -i /run/wrong.deb 2>&1 | grep 'does not match system'"
    check "... and the service goes on" is ActiveState active

    # As cloud-init has it, with a boot script that calls without a token.
    cat >/etc/systemd/system/cloud-init-local.service <<'UNIT'
[Unit]
DefaultDependencies=no
Wants=network-pre.target
After=systemd-remount-fs.service
Before=network-pre.target sysinit.target shutdown.target
Conflicts=shutdown.target
RequiresMountsFor=/var/lib/cloud
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/bash /srv/test/guest.sh boot-caller
[Install]
WantedBy=multi-user.target
UNIT
    mkdir -p /var/lib/cloud
    check "enable" systemctl enable --quiet $UNIT cloud-init-local.service
}

# In place of cloud-init.
boot_caller() {
    imds
    curl -s -o /dev/null "$PAGE?boot"
}

time_of() { echo $(($(systemctl show -p "$2" --value "$1") / 1000)); }

after_boot() {
    check "active after boot" is ActiveState active
    check "no ordering cycle" not sh -c "journalctl -b | grep -i 'ordering cycle'"
    check "nothing of systemd's about the unit" not sh -c "journalctl -b _PID=1 | grep 'imds-analyzer.*\(Unknown\|Failed\|ignoring\)'"
    check "the boot script's call is recorded" record "instance-id?boot"
    check "... as v1 of cloud-init-local.service" says '"version":"v1".*"unit":"cloud-init-local.service"'
    say "  starting took $(($(time_of $UNIT ActiveEnterTimestampMonotonic) - $(time_of $UNIT InactiveExitTimestampMonotonic))) ms (emulated), from $(time_of $UNIT InactiveExitTimestampMonotonic) ms; cloud-init-local from $(time_of cloud-init-local.service InactiveExitTimestampMonotonic) ms"

    # An upgrade under traffic.
    local before
    before=$(systemctl show -p MainPID --value $UNIT)
    (for i in $(seq 100000); do curl -s -o /dev/null "$PAGE?traffic=$i"; echo "$i" >/run/traffic; done) &
    local traffic=$!
    echo '# edited' >>/etc/imds-analyzer/config.toml
    wc -l <$LOG >/run/lines
    check "the next version comes out" serve repo-next
    say "  $(apt-cache policy imds-analyzer | tr '\n' ' ')"
    check "upgrade" apt install imds-analyzer
    check "version" sh -c "imds-analyzer --version; dpkg -s imds-analyzer | grep '^Version: .*+next'"
    check "active after upgrade" soon is ActiveState active
    check "restarted" not test "$before" = "$(systemctl show -p MainPID --value $UNIT)"
    check "edited configuration is kept" contains /etc/imds-analyzer/config.toml '# edited'
    local now
    now=$(cat /run/traffic)
    check "traffic after the upgrade is counted" soon sh -c "[ \$(cat /run/traffic) -gt $((now + 3)) ]"
    kill $traffic
    check "the log lost no line" test "$(cat $LOG | wc -l)" -gt "$(cat /run/lines)"
    check "every line is JSON" python3 -c "import json; [json.loads(l) for l in open('$LOG')]"
    check "an end and a start are in the log" sh -c "[ \$(grep -c imds-analyzer-start $LOG) -ge 3 ]"
    check "reinstall" apt install --reinstall imds-analyzer
    check "active after reinstall" soon is ActiveState active
    check "stop" systemctl stop $UNIT
    check "reinstall while stopped" apt install --reinstall imds-analyzer
    check "still stopped" is ActiveState inactive
    check "still enabled" is UnitFileState enabled

    # An old key: the upgrade goes well, and the service that runs is left alone.
    systemctl start $UNIT
    before=$(systemctl show -p MainPID --value $UNIT)
    echo 'old_key = 1' >/etc/imds-analyzer/config.new
    cat /etc/imds-analyzer/config.toml >>/etc/imds-analyzer/config.new
    cp /etc/imds-analyzer/config.toml /run/config.good
    cp /etc/imds-analyzer/config.new /etc/imds-analyzer/config.toml
    check "upgrade with an old key" sh -c "DEBIAN_FRONTEND=noninteractive apt-get -y install --reinstall imds-analyzer </dev/null >/run/apt 2>&1"
    check "... says so" contains /run/apt 'does not fit this version'
    grep -E 'imds-analyzer:|old_key' /run/apt | sed 's/^/@test   /'
    check "... and the service goes on" test "$before" = "$(systemctl show -p MainPID --value $UNIT)"
    cp /run/config.good /etc/imds-analyzer/config.toml
    check "read-only /etc" sh -c "mount --bind -o ro /etc /etc && mount -o remount,bind,ro /etc && systemctl restart $UNIT && systemctl --quiet is-active $UNIT; r=\$?; umount /etc; exit \$r"
    systemctl stop $UNIT
    check "too old or closed a host is explained" sh -c "python3 -c '$WITHOUT_RIGHTS' imds-analyzer daemon; test \$? = 4"

    # A service that never gets ready.
    printf '[Service]\nExecStart=\nExecStart=/bin/sleep 1000\n' >/etc/systemd/system/$UNIT.d/test.conf
}

after_bad_boot() {
    check "boot went on" systemctl --quiet is-active multi-user.target
    check "logins are possible" systemctl --quiet is-active systemd-user-sessions.service
    check "the boot script ran" systemctl --quiet is-active cloud-init-local.service
    say "  cloud-init-local started $(($(time_of cloud-init-local.service InactiveExitTimestampMonotonic))) ms after the kernel; $(systemctl show -p Result --value $UNIT)"
    check "the service timed out" sh -c "journalctl -b -u $UNIT | grep -q 'timed out\|timeout'"
    limit_of_tests
    systemctl stop $UNIT
    check "starts once it is right again" systemctl start $UNIT

    # Half installed: unpacked, not configured; then removed.
    check "remove" apt remove imds-analyzer
    check "stopped" not pgrep -x imds-analyzer
    check "not enabled" not test -e /etc/systemd/system/multi-user.target.wants/$UNIT
    check "configuration and logs are left" test -e /etc/imds-analyzer/config.toml -a -e $LOG
    serve repo-next
    check "half installed" dpkg --unpack "$HERE"/repo-next/apt/pool/main/imds-analyzer_*next*.deb
    check "... is set right" apt -f install
    check "install again" apt install imds-analyzer
    check "not enabled again" is UnitFileState disabled
    rm -r /etc/systemd/system/$UNIT.d
    check "purge" apt purge imds-analyzer
    find / -xdev -iname '*imds*analyzer*' -not -path '/srv/*' -not -path '/proc/*' -not -path '/sys/*' \
        -not -path '/etc/apt/*' -not -path '/usr/share/keyrings/*' -not -path '/var/lib/apt/*' -not -path '/var/cache/apt/*' >/run/left
    check "nothing is left" not contains /run/left .
    sed 's/^/@test   left: /' /run/left
    check "no unit is left" not sh -c "systemctl list-units --all | grep imds-analyzer"
    check "no program is left in the kernel" not sh -c "ls -l /proc/[0-9]*/fd 2>/dev/null | grep 'bpf-prog.*imds'"

    # No systemd: an image build.
    serve repo-now
    check "install without systemd" unshare --mount --pid --fork sh -c \
        "mount -t tmpfs none /run && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install imds-analyzer </dev/null"
    check "... and removed" unshare --mount --pid --fork sh -c \
        "mount -t tmpfs none /run && DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge imds-analyzer </dev/null"
}

if [ "${1:-}" = boot-caller ]; then
    boot_caller
    exit
fi
COUNT=/var/lib/package-tests
boot=$(($(cat $COUNT 2>/dev/null || echo 0) + 1))
echo $boot >$COUNT
say "boot $boot: $(uname -r), $(. /etc/os-release && echo "$PRETTY_NAME")"
case $boot in
1) install_and_use ;;
2) after_boot ;;
3) after_bad_boot ;;
esac
say "end of boot $boot"
sync
systemctl --no-block reboot
