#!/bin/bash
# The .rpm from the YUM repository, by real dnf, in an RPM root below ROOT: rpm.sh ROOT REPO-NOW REPO-NEXT.
# The root has a shell, and a systemctl that notes what it is asked for. What a distribution would bring is an empty package.
set -u

ROOT=$1 NOW=$2 NEXT=$3
SYSTEM=$ROOT/rpm-root
CALLS=$SYSTEM/systemctl-calls
PORT=8001
OUTPUT=$ROOT/rpm-output

check() {
    local what=$1
    shift
    if "$@" >"$OUTPUT" 2>&1; then
        echo "ok $what"
    else
        echo "FAILED $what: $*"
        sed 's/^/  /' "$OUTPUT" | head -20
    fi
}
not() { ! "$@"; }
called() { grep -q -- "$1" "$CALLS"; }
clear_calls() { : >"$CALLS"; }

rm -rf "$SYSTEM" "$ROOT/rpm-serve" "$ROOT/rpm-base"
mkdir -p "$SYSTEM"/{bin,usr/bin,run,dev,etc} "$ROOT/rpm-serve" "$ROOT/rpm-base"
touch "$SYSTEM/dev/null"
busybox=$(command -v busybox)
for name in sh rmdir; do cp "$busybox" "$SYSTEM/bin/$name"; done
# If it is not static, its libraries.
ldd "$busybox" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do cp --parents --dereference "$library" "$SYSTEM"; done
cat >"$SYSTEM/bin/systemctl" <<'STUB'
#!/bin/sh
echo "$*" >>/systemctl-calls
case "$*" in *is-active*) test -e /service-runs ;; esac
STUB
chmod 755 "$SYSTEM/bin/systemctl"
clear_calls

# The program cannot run in a root without a C library; what its configuration check comes to is set by the test.
cat >"$ROOT/rpm-base/base.spec" <<'SPEC'
Name: base-of-the-test
Version: 1
Release: 1
Summary: Stands for a distribution
License: MIT
BuildArch: noarch
Provides: /bin/sh
Provides: libc.so.6(GLIBC_2.17)(64bit)
%description
%files
SPEC
rpmbuild --quiet -bb --define "_topdir $ROOT/rpm-base" --define "_rpmdir $ROOT/rpm-base" "$ROOT/rpm-base/base.spec" >/dev/null 2>&1
createrepo_c --quiet "$ROOT/rpm-base"

cd "$ROOT/rpm-serve" && ln -s "$NOW" repo
python3 -m http.server --directory "$ROOT/rpm-serve/repo/" --bind 127.0.0.1 $PORT >/dev/null 2>&1 &
server=$!
trap 'kill $server' EXIT
for _ in $(seq 50); do curl -s -o /dev/null "http://127.0.0.1:$PORT/" && break; sleep 0.1; done

repos=$ROOT/rpm-serve/repos
mkdir -p "$repos"
sed "s,http://127.0.0.1:8000,http://127.0.0.1:$PORT,g" "$NOW/imds-analyzer.repo" >"$repos/imds-analyzer.repo"
printf '[base]\nname=base\nbaseurl=file://%s\nenabled=1\ngpgcheck=0\n' "$ROOT/rpm-base" >"$repos/base.repo"
in_root() {
    dnf --quiet --assumeyes --installroot="$SYSTEM" --releasever=9 --setopt=reposdir="$repos" \
        --setopt=cachedir="$ROOT/rpm-serve/cache" --setopt=metadata_expire=0 "$@" </dev/null
}
query() { rpm --root "$SYSTEM" "$@"; }
arch=$(uname -m)

check "dnf install, signatures checked" in_root install imds-analyzer
check "installed" query -q imds-analyzer
check "files are as they were packed" not sh -c "rpm --root '$SYSTEM' -V --nodeps imds-analyzer | grep ."
check "the key was imported" query -q gpg-pubkey
check "gzip payload" sh -c "rpm -qp --qf '%{PAYLOADCOMPRESSOR}' '$NOW'/yum/$arch/*.rpm | grep -x gzip"
check "RSA signature" sh -c "rpm -qpi '$NOW'/yum/$arch/*.rpm | grep -i 'signature.*RSA/SHA256'"
check "install calls nothing where systemd does not run" not called .
check "configuration is noreplace" sh -c "rpm --root '$SYSTEM' -qc imds-analyzer | grep -x /etc/imds-analyzer/config.toml"
check "licences are documents" test -e "$SYSTEM/usr/share/licenses/imds-analyzer/LICENSE-MIT"

mkdir -p "$SYSTEM/run/systemd/system"
echo '# edited' >>"$SYSTEM/etc/imds-analyzer/config.toml"
mkdir -p "$SYSTEM/var/log/imds-analyzer" && echo '{}' >"$SYSTEM/var/log/imds-analyzer/events.jsonl"
rm "$ROOT/rpm-serve/repo" && ln -s "$NEXT" "$ROOT/rpm-serve/repo"
kill $server
python3 -m http.server --directory "$ROOT/rpm-serve/repo/" --bind 127.0.0.1 $PORT >/dev/null 2>&1 &
server=$!
for _ in $(seq 50); do curl -s -o /dev/null "http://127.0.0.1:$PORT/" && break; sleep 0.1; done
clear_calls
check "upgrade while it is stopped" in_root upgrade imds-analyzer
check "... to the next version" sh -c "rpm --root '$SYSTEM' -q imds-analyzer | grep next"
check "... reads units anew" called daemon-reload
check "... neither enables nor starts" not called 'start\|enable\|preset'
check "... keeps the configuration" grep -q '# edited' "$SYSTEM/etc/imds-analyzer/config.toml"

touch "$SYSTEM/service-runs"
cp "$SYSTEM/usr/bin/imds-analyzer" "$ROOT/rpm-serve/program"
clear_calls
check "reinstall while it runs" in_root reinstall imds-analyzer
check "... whose configuration cannot be checked leaves it alone" not called restart
# In place of the program: a configuration that is right.
printf '#!/bin/sh\nexit 0\n' >"$SYSTEM/usr/bin/imds-analyzer"
check "upgrade script of a service that runs" sh -c "rpm --root '$SYSTEM' -q --scripts imds-analyzer >'$ROOT/rpm-scripts' && \
    sed -n '/^postinstall/,/^preuninstall/p' '$ROOT/rpm-scripts' | sed '1d;\$d' >'$SYSTEM/post' && chroot '$SYSTEM' /bin/sh /post 2"
check "... restarts it" called 'try-restart imds-analyzer.service'
cp "$ROOT/rpm-serve/program" "$SYSTEM/usr/bin/imds-analyzer"
rm "$SYSTEM/post"

clear_calls
check "remove" in_root remove imds-analyzer
check "... stops it" called 'stop imds-analyzer.service'
check "... and disables it" called 'disable imds-analyzer.service'
check "... leaves edited configuration" test -e "$SYSTEM/etc/imds-analyzer/config.toml.rpmsave"
check "... and logs" test -e "$SYSTEM/var/log/imds-analyzer/events.jsonl"
rm -r "$SYSTEM/etc/imds-analyzer" "$SYSTEM/var/log/imds-analyzer"
check "nothing else is left" sh -c "! find '$SYSTEM' -iname '*imds*' -not -path '*/var/lib/dnf/*' -not -path '*/var/log/*' -not -path '*/var/cache/*' | grep ."
check "a package that was changed is refused" sh -c "cp '$NEXT'/yum/$arch/*next*.rpm '$ROOT/rpm-serve/changed.rpm' && \
    printf x | dd of='$ROOT/rpm-serve/changed.rpm' bs=1 seek=200000 conv=notrunc 2>/dev/null && ! rpm -K --nosignature '$ROOT/rpm-serve/changed.rpm'"
if [ "$arch" = x86_64 ]; then other=aarch64; else other=x86_64; fi
check "install again" in_root install imds-analyzer
check "... enables nothing" not called enable
check "the wrong architecture is refused" sh -c "! dnf --quiet --assumeyes --installroot='$SYSTEM' --forcearch=$other --setopt=reposdir='$repos' \
    --setopt=cachedir='$ROOT/rpm-serve/cache2' install imds-analyzer </dev/null || test -z \"\$(ls '$NOW'/yum/$other/*.rpm 2>/dev/null)\""
rm -rf "$SYSTEM" "$ROOT/rpm-serve" "$ROOT/rpm-base" "$OUTPUT" "$ROOT/rpm-scripts"
