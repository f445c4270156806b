#!/usr/bin/env bash
# image.sh FOLDER: makes FOLDER/image.tar, the image of every pod, from programs of this machine; and the ssh keys that it lets in and
# shows, in FOLDER/ssh.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
OUT=$1 SSH=$1/ssh
WORK=$(mktemp -d "$OUT/image.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
ROOT=$WORK/root

mkdir -p "$ROOT"/{bin,dev,etc/ssh,proc,run/sshd,sys,usr/bin,usr/sbin,var/log,www} "$SSH"
install -d -m 1777 "$ROOT/tmp"
install -d -m 700 "$ROOT/root" "$ROOT/root/.ssh"
cp /bin/busybox "$ROOT/bin"
chroot "$ROOT" /bin/busybox --install -s /bin
gcc -O2 -Wall -static -pthread -o "$ROOT/bin/podsvc" "$HERE/podsvc.c"
for program in /usr/sbin/sshd /usr/lib/openssh/sftp-server /usr/bin/{scp,rsync,socat}; do
  for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do # the program and its libraries
    [ -e "$ROOT$file" ] || install -D "$file" "$ROOT$file"
  done
done

for key in host user; do
  [ -e "$SSH/id_$key" ] || ssh-keygen -q -t ed25519 -N '' -C "kpf-cluster $key" -f "$SSH/id_$key"
done
install -m 600 "$SSH/id_host" "$ROOT/etc/ssh/ssh_host_ed25519_key"
install -m 600 "$SSH/id_user.pub" "$ROOT/root/.ssh/authorized_keys"
cat >"$ROOT/etc/ssh/sshd_config" <<'CONF'
UsePAM no
UseDNS no
PermitRootLogin prohibit-password
MaxStartups 200
MaxSessions 200
Subsystem sftp /usr/lib/openssh/sftp-server
CONF
printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'sshd:x:74:74:sshd:/run/sshd:/bin/false' >"$ROOT/etc/passwd"
printf '%s\n' 'root:x:0:' 'tty:x:5:' 'sshd:x:74:' >"$ROOT/etc/group"
: >"$ROOT/var/log/lastlog" # or sshd complains at every login with a terminal
echo 'hello from web' >"$ROOT/www/index.html"

# One layer, in the form that `docker save` writes.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$ROOT" -cf "$WORK/layer.tar" .
cat >"$WORK/config.json" <<JSON
{"architecture": "$(dpkg --print-architecture)", "os": "linux",
 "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sleep", "infinity"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$(sha256sum <"$WORK/layer.tar" | cut -d' ' -f1)"]}}
JSON
echo '[{"Config": "config.json", "RepoTags": ["kpf.local/pod:1"], "Layers": ["layer.tar"]}]' >"$WORK/manifest.json"
tar -C "$WORK" -cf "$WORK/image.tar" manifest.json config.json layer.tar
mv "$WORK/image.tar" "$OUT/image.tar"
