#!/usr/bin/env bash
# A real Kubernetes of one node on this machine, for tests: etcd, kube-apiserver 1.20, containerd and kubelet, from nothing but
# Debian 12's archive. No scheduler, controllers, DNS or kube-proxy: pods name their node, services are found by selector.
#
#   cluster.sh up             builds what is missing (minutes, once), starts what doesn't run, waits until the pods are ready
#   cluster.sh kubeconfig     prints the path of the kubeconfig; its contexts are the names of its users, see daemons.sh
#   cluster.sh key            prints the path of the ssh key for the pod sshd
#   cluster.sh restart NAME   ends apiserver, kubelet or containerd, starts it again and waits for it
#   cluster.sh kill POD       kills the first container of a pod of the namespace default, and waits for the next one
#   cluster.sh replace POD    deletes a pod of the namespace default, and waits for a new one of the same name
#   cluster.sh status         says what runs; fails where anything doesn't
#   cluster.sh down           ends everything and removes everything but what was built
#
# All of it is in ${XDG_CACHE_HOME:-~/.cache}/kpf-cluster: built/ is kept, run/ lives from up to down, log/ until the next up.
# Outside of it, while it is up: the bridge kpf0, cgroups named kubepods, /run/containerd, /var/lib/cni and /var/log/{pods,containers},
# whose paths are fixed in kubelet, libcni and containerd's shim.
#
# Where this machine can't run it, or has another one, it says why in one line, changes nothing, and exits with 3. A cluster that
# doesn't come up, or whose start is interrupted, is taken down again, and the exit code is another.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=$(realpath -m "${XDG_CACHE_HOME:-$HOME/.cache}/kpf-cluster")
BUILT=$CACHE/built LOG=$CACHE/log RUN=$CACHE/run
PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022

die() { echo "cluster.sh: $*" >&2; exit 1; }
cannot() { echo "cluster.sh: not on this machine: $*" >&2; exit 3; }
say() { printf '%3d.%d s  %s\n' $((($(now) - BEGUN) / 1000)) $((($(now) - BEGUN) / 100 % 10)) "$*"; }
now() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
kubectl() { "$BUILT/kubectl" --kubeconfig "$RUN/kubeconfig" --cache-dir "$RUN/kubectl" "$@"; }

. "$HERE/process.sh"
. "$HERE/daemons.sh"
. "$HERE/machine.sh"

up() {
  can_run
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap abandon EXIT
  build
  can_network
  if ! any_runs; then
    down # what a crash or a reboot has left
    is_free
    rm -rf "$LOG"
  fi
  install -d -m 700 "$RUN" "$LOG"
  [ -e "$RUN/kubeconfig" ] || credentials
  borrow_machine
  start_etcd
  start_apiserver
  start_containerd
  ready_containerd
  import_image
  start_kubelet # spends its first 5 s looking for Docker
  ready_apiserver
  say 'the API server is ready'
  kubectl apply -f "$HERE/manifests.yaml" >/dev/null
  ready_kubelet
  say 'the kubelet is ready'
  patiently kubectl wait --for condition=Ready pod -l app --all-namespaces --timeout 60s >/dev/null || die 'the pods do not become ready'
  await kubelet pod_done
  trap - EXIT
  say 'the pods are ready'
}

pod_done() { [ "$(kubectl get pod "done" -o 'jsonpath={.status.phase}')" = Succeeded ]; }

abandon() {
  local code=$?
  trap '' HUP INT TERM
  end_started_by $$
  [ $code = 3 ] || down # else nothing was begun
  exit $code
}

build() {
  if [ ! -x "$BUILT/kube-apiserver" ]; then
    patiently "$HERE/kubernetes.sh" "$BUILT" || exit # it said why
    say 'kube-apiserver and kubelet are built'
  fi
  if [ ! -e "$BUILT/image.tar" ] || [ "$HERE/image.sh" -nt "$BUILT/image.tar" ] || [ "$HERE/podsvc.c" -nt "$BUILT/image.tar" ]; then
    "$HERE/image.sh" "$BUILT" || die 'the image could not be made'
    say 'the image is made'
  fi
}

down() {
  "$HERE/kubernetes.sh" --clean "$BUILT"
  [ -d "$RUN" ] || return 0
  stop kubelet
  stop apiserver
  stop etcd
  end_containers
  stop containerd
  end_shims
  return_machine
  rm -rf "$RUN"
  say 'all is down'
}

restart() {
  case ${1-} in apiserver | kubelet | containerd) ;; *) die 'restart apiserver, kubelet or containerd?' ;; esac
  [ -d "$RUN" ] || die 'the cluster is not up'
  stop "$1"
  "start_$1"
  "ready_$1"
  await "$1" kubectl exec sshd -- true # through all of them
  say "$1 is back"
}

# The next container comes at once only for a pod that has lost none yet; the kubelet's delay doubles with each, from 10 s on.
kill_container() {
  local container
  container=$(container_of "${1-}") || die 'kill which pod of the namespace default?'
  ctr tasks kill --signal KILL "${container#true containerd://}" || die "the container of $1 doesn't run"
  await kubelet is_another "$1" "$container"
  say "the container of $1 is another"
}
container_of() { kubectl get pod "$1" -o 'jsonpath={.status.containerStatuses[0].ready} {.status.containerStatuses[0].containerID}'; }
is_another() { [[ $(container_of "$1") = true\ * && $(container_of "$1") != "$2" ]]; }

replace() {
  kubectl get pod "${1-}" -o 'jsonpath={.metadata.uid}{"\n"}' >>"$RUN/replaced" || die 'replace which pod of the namespace default?'
  # kubelet 1.20 now and then ends a pod and never says so
  kubectl delete pod "$1" --timeout 8s >/dev/null 2>&1 ||
    kubectl delete pod "$1" --grace-period 0 --force --ignore-not-found >/dev/null 2>&1
  kubectl apply -f "$HERE/manifests.yaml" >/dev/null
  kubectl wait --for condition=Ready "pod/$1" --timeout 60s >/dev/null || die "the pod $1 does not become ready"
  say "$1 is another"
}

status() {
  local name code=0
  for name in "${DAEMONS[@]}"; do
    if runs "$name"; then echo "$name: $(<"$RUN/$name.pid")"; else echo "$name: doesn't run"; code=1; fi
  done
  [ $code = 0 ] && kubectl get pods --all-namespaces -o wide
}

BEGUN=$(now)
case ${1-} in
  kubeconfig) echo "$RUN/kubeconfig" ;;
  key) echo "$BUILT/ssh/id_user" ;;
  up | down | kill | replace | restart | status)
    [ "$(id -u)" = 0 ] || cannot 'needs root, who makes network namespaces, mounts and cgroups'
    mkdir -p "$CACHE" 2>/dev/null || cannot "$CACHE can't be made"
    mark "$@"
    lock
    case $1 in kill) kill_container "${@:2}" ;; *) "$@" ;; esac
    ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$HERE/cluster.sh" >&2; exit 2 ;;
esac
