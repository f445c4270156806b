#!/usr/bin/env bash
# kubernetes.sh FOLDER: installs what the cluster runs on, and puts kube-apiserver, kubelet and kubectl into FOLDER. Takes minutes, and
# 3 GB in FOLDER/src meanwhile. Debian ships kubectl, but of the servers only the source, with everything that they depend on.
# kubernetes.sh --clean FOLDER removes what it has left where it was killed.
set -euo pipefail

OUT=${!#} SRC=${!#}/src
PATH=/usr/sbin:/usr/bin:/sbin:/bin
PACKAGES=(etcd-server containerd runc containernetworking-plugins busybox-static openssh-server socat
  openssl iproute2 procps gcc libc6-dev make rsync dpkg-dev golang-1.19-go)

die() { echo "kubernetes.sh: $*" >&2; exit 1; }
cannot() { echo "kubernetes.sh: not on this machine: $*" >&2; exit 3; }

if [ "$1" = --clean ]; then
  rm -rf "$SRC"
  exit
fi
trap 'rm -rf "$SRC"' EXIT

grep -qx 'VERSION_CODENAME=bookworm' /etc/os-release || cannot 'the servers are made from the sources of Debian 12, and this is another system'
rm -rf "$SRC" && mkdir -p "$SRC/lists/partial"
[ "$(df --output=avail -k "$SRC" | tail -n 1)" -gt 4000000 ] || cannot "the build takes 4 GB in $OUT, which has less"

# The machine's own mirrors, asked for sources too, with lists of our own: what the machine knows and prefers stays as it is.
for kind in deb deb-src; do
  apt-get indextargets --format "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
    'Created-By: Packages'
done | grep -E ' bookworm[^ ]* main$' | sort -u >"$SRC/sources.list"
cat >"$SRC/apt.conf" <<CONF
Dir::Etc::SourceList "$SRC/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$SRC/lists";
APT::Sandbox::User "root"; // apt's own user may not look in here
APT::Install-Recommends "false";
CONF
export APT_CONFIG=$SRC/apt.conf DEBIAN_FRONTEND=noninteractive
complaint=$(apt-get -qq -o APT::Update::Error-Mode=any update 2>&1) || cannot "apt can't reach Debian's archive: ${complaint%%$'\n'*}"
version=$(apt-cache showsrc kubernetes | sed -n 's/^Version: \(1\.20\..*\)/\1/p' | tail -n 1)
[ -n "$version" ] || cannot "apt's sources have no kubernetes 1.20"

# Install what is missing. None of their daemons may start, now or at boot: the cluster runs its own. Without its mark, or dpkg would be
# killed with us; the lock stays with it.
missing=()
for package in "${PACKAGES[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
done
if [ ${#missing[@]} != 0 ]; then
  env -u KPF_CLUSTER_SCRIPT bash -c '
    guard=/usr/sbin/policy-rc.d
    if [ ! -e $guard ]; then
      trap "rm -f $guard" EXIT
      printf "#!/bin/sh\nexit 101\n" >$guard && chmod 755 $guard
    fi
    apt-get -qq -y install "$@"' bash "${missing[@]}"
  for unit in etcd:etcd-server containerd:containerd ssh:openssh-server; do
    [[ " ${missing[*]} " != *" ${unit#*:} "* ]] || systemctl disable "${unit%:*}" 2>/dev/null || true
  done
fi

cd "$SRC"
apt-get -qq download "kubernetes-client=$version"
dpkg -x kubernetes-client_*.deb client
apt-get -qq source "kubernetes=$version"
cd kubernetes-*/
# In a GOPATH, as Debian builds it: Go refuses the tree as a module, whose go.mod and vendor disagree.
mkdir -p .go/src/k8s.io && ln -sfn ../../.. .go/src/k8s.io/kubernetes
# The build would ask git for the version, and might find a repository around the cache.
upstream=${version#*really} # as in 1.20.5+really1.20.2-1
printf "KUBE_GIT_%s='%s'\n" VERSION "v${upstream%%[+-]*}" MAJOR 1 MINOR 20 COMMIT debian TREE_STATE archive >.version
env -u GOFLAGS -u GOROOT PATH="/usr/lib/go-1.19/bin:$PATH" GOPATH="$PWD/.go" GOCACHE="$SRC/gocache" CGO_ENABLED=0 \
  KUBE_GIT_VERSION_FILE="$PWD/.version" make WHAT='cmd/kube-apiserver cmd/kubelet'
install "$SRC/client/usr/bin/kubectl" _output/local/bin/linux/*/{kubelet,kube-apiserver} "$OUT" # kube-apiserver last: it says that all is there
