# Processes that outlive the script, by name, and those that must not. Sourced by cluster.sh.

# mark ARGUMENTS...: what this script starts has its pid in its environment, daemons apart. Runs the script once more for it.
mark() { [ "${KPF_CLUSTER_SCRIPT-}" = $$ ] || KPF_CLUSTER_SCRIPT=$$ exec "$BASH" "$HERE/cluster.sh" "$@"; }

# end_started_by PID: what the script that had this pid has left.
end_started_by() {
  local file
  for file in $(grep -lzx "KPF_CLUSTER_SCRIPT=$1" /proc/[0-9]*/environ 2>/dev/null); do
    [ "$file" = /proc/$$/environ ] || kill -KILL "${file//[^0-9]/}" 2>/dev/null || true
  done
}

# lock: one of us at a time. What a script that was killed has started would keep its lock, and is ended.
lock() {
  local owner
  exec 9>>"$CACHE/lock"
  until flock --timeout 1 9; do
    owner=$(<"$CACHE/lock")
    grep -qaF cluster.sh "/proc/$owner/cmdline" 2>/dev/null || end_started_by "$owner"
  done
  { echo $$ >"$CACHE/lock"; } 2>/dev/null || true # a full disk is told later
}

# patiently COMMAND...: in a way that signals end at once.
patiently() { "$@" & wait $!; }

DAEMONS=(etcd apiserver containerd kubelet)

# runs NAME: the process that was started as NAME is alive. A stranger that got its pid later has no path of ours in its arguments.
runs() { [ -s "$RUN/$1.pid" ] && grep -qaF "$CACHE/" "/proc/$(<"$RUN/$1.pid")/cmdline" 2>/dev/null; }

any_runs() { local name; for name in "${DAEMONS[@]}"; do ! runs "$name" || return 0; done; return 1; }

# start NAME COMMAND...: in a session of its own, with nothing of our environment, proxies above all; not where it runs already.
start() {
  local name=$1
  shift
  ! runs "$name" || return 0
  { # has the lock until its pid is known
    echo "$BASHPID" >"$RUN/$name.pid"
    exec setsid env -i PATH="$PATH" HOME="$RUN" "$@" >>"$LOG/$name.log" 2>&1 </dev/null 9>&-
  } &
  until runs "$name" || ! kill -0 $! 2>/dev/null; do sleep 0.01; done # until then it is a copy of this script
}

# stop NAME: asks it to end, for ten seconds, and then no more.
stop() {
  local pid
  runs "$1" || return 0
  pid=$(<"$RUN/$1.pid")
  kill "$pid"
  for _ in {1..200}; do runs "$1" || break; sleep 0.05; done
  ! runs "$1" || kill -KILL "$pid"
  rm -f "$RUN/$1.pid"
}

# await NAME COMMAND...: until the command succeeds. NAME must live, and a minute is enough.
await() {
  local name=$1 end=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    if ! runs "$name" || [ $SECONDS -ge $end ]; then
      [ "$(df --output=avail -k "$CACHE" | tail -n 1)" -gt 1000 ] || die "$CACHE is full"
      tail -n 10 "$LOG/$name.log" >&2
      die "$name doesn't become ready: see $LOG/$name.log"
    fi
    sleep 0.1
  done
}
