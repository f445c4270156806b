# What the machine must be able to do, what is borrowed from it, and what it gets back. Sourced by cluster.sh.

BRIDGE=kpf0
# What kubelet and the bridge plugin change.
SYSCTLS=(kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes
  vm.overcommit_memory vm.panic_on_oom net.ipv4.ip_forward)

# can_run: or says why not, before anything is built.
can_run() {
  [ ${#CACHE} -le 65 ] || die "the path of a Unix socket in $CACHE would be too long; set XDG_CACHE_HOME"
  unshare --mount --net --pid --ipc --uts --fork mount --bind / / 2>/dev/null ||
    die 'this machine lets nobody make namespaces or mounts; in a container it takes --privileged'
  [ -d /sys/fs/cgroup/memory ] || die 'kubelet 1.20 needs cgroups v1 (boot with systemd.unified_cgroup_hierarchy=0)'
  [ -w /sys/fs/cgroup/memory/cgroup.procs ] || die '/sys/fs/cgroup is read-only; in a container it takes --privileged'
}

# is_free: nobody else's Kubernetes, and nobody on our ports.
is_free() {
  local port
  [ ! -e /sys/fs/cgroup/memory/kubepods ] || die 'a kubelet has its pods on this machine already (/sys/fs/cgroup/memory/kubepods)'
  for port in "$API_PORT" "$ETCD_PORT" "$PEER_PORT"; do
    ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || die "port $port of this machine is taken"
  done
}

borrow_machine() {
  [ -e "$RUN/sysctls" ] || sysctl "${SYSCTLS[@]}" >"$RUN/sysctls"
  ip link show $BRIDGE >/dev/null 2>&1 || ip link add $BRIDGE type bridge || die 'no bridge can be made: is CAP_NET_ADMIN missing?'
  ip address replace "$NODE_IP/24" dev $BRIDGE
  ip link set $BRIDGE up
}

return_machine() {
  local pod
  for pod in "$RUN"/kubelet/pods/*; do rm -rf /var/log/pods/*_"${pod##*/}"; done
  find /var/log/containers -xtype l -delete 2>/dev/null || true
  awk -v ours="$RUN/" 'index($2, ours) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount --lazy
  find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
  ip link delete $BRIDGE 2>/dev/null || true
  [ ! -e "$RUN/sysctls" ] || sysctl -q -p "$RUN/sysctls"
}
