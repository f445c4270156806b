# What the machine must be able to do, what is borrowed from it, and what it gets back. Sourced by cluster.sh.

BRIDGE=kpf0
# What kubelet and the bridge plugin change.
SYSCTLS=(kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes
  vm.overcommit_memory vm.panic_on_oom net.ipv4.ip_forward)

# can_run: or says why not, before anything is built.
can_run() {
  local controller
  [ ${#CACHE} -le 65 ] || cannot "the path of a Unix socket in $CACHE would be too long; set XDG_CACHE_HOME"
  unshare --mount --net --pid --ipc --uts --fork mount --bind / / 2>/dev/null ||
    cannot 'nobody may make namespaces or mounts; in a container it takes --privileged'
  for controller in cpu cpuacct cpuset devices freezer memory pids; do
    [ -d /sys/fs/cgroup/$controller ] ||
      cannot "kubelet 1.20 needs cgroups v1, and $controller isn't there (boot with systemd.unified_cgroup_hierarchy=0)"
    { mkdir /sys/fs/cgroup/$controller/kpf-probe && rmdir /sys/fs/cgroup/$controller/kpf-probe; } 2>/dev/null ||
      cannot "no cgroup can be made in /sys/fs/cgroup/$controller; in a container it takes --privileged"
  done
  [ "$(df --output=avail -k "$CACHE" | tail -n 1)" -gt 700000 ] || cannot "a run takes 700 MB in $CACHE, which has less"
}

# can_network: as can_run, with a program that the build installs.
can_network() {
  unshare --net sh -c "ip link add name $BRIDGE type bridge && ip link add name kpf1 type veth peer name kpf2" 2>/dev/null ||
    cannot 'no bridge or no veth can be made: is CAP_NET_ADMIN missing, or a module of the kernel?'
}

# is_free: nobody else's Kubernetes, and nobody on our ports.
is_free() {
  local port
  [ ! -e /sys/fs/cgroup/memory/kubepods ] || cannot 'another kubelet has its pods here (/sys/fs/cgroup/memory/kubepods)'
  for port in "$API_PORT" "$ETCD_PORT" "$PEER_PORT" "$KUBELET_PORT"; do
    ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || cannot "port $port is taken"
  done
}

# can_overlay: containerd's usual file system; a container's own root, say, can't carry it.
can_overlay() {
  mkdir -p "$RUN"/overlay/{lower,upper,work,merged}
  unshare --mount mount -t overlay -o "lowerdir=$RUN/overlay/lower,upperdir=$RUN/overlay/upper,workdir=$RUN/overlay/work" \
    overlay "$RUN/overlay/merged" 2>/dev/null
}

borrow_machine() {
  [ -e "$RUN/sysctls" ] || sysctl "${SYSCTLS[@]}" >"$RUN/sysctls"
  ip link show $BRIDGE >/dev/null 2>&1 || ip link add $BRIDGE type bridge || die "the bridge $BRIDGE can't be made"
  ip address replace "$NODE_IP/24" dev $BRIDGE
  ip link set $BRIDGE up
}

return_machine() {
  local pod
  for pod in "$RUN"/kubelet/pods/* $(cat "$RUN/replaced" 2>/dev/null); do rm -rf /var/log/pods/*_"${pod##*/}"; done
  find /var/log/containers -xtype l -delete 2>/dev/null || true
  awk -v ours="$RUN/" 'index($2, ours) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount --lazy
  find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
  ip link delete $BRIDGE 2>/dev/null || true
  find /run/containerd /var/lib/cni /var/log/pods /var/log/containers -depth -type d -empty -delete 2>/dev/null || true
  [ ! -e "$RUN/sysctls" ] || sysctl -q -p "$RUN/sysctls"
}
