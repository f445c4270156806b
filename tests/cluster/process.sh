# Processes that outlive the script, by name. Sourced by cluster.sh.

DAEMONS=(etcd apiserver containerd kubelet)

# runs NAME: the process that was started as NAME is alive. A stranger that got its pid later has no path of ours in its arguments.
runs() { [ -s "$RUN/$1.pid" ] && grep -qaF "$CACHE/" "/proc/$(<"$RUN/$1.pid")/cmdline" 2>/dev/null; }

any_runs() { local name; for name in "${DAEMONS[@]}"; do ! runs "$name" || return 0; done; return 1; }

# start NAME COMMAND...: in a session of its own, with nothing of our environment, proxies above all; not where it runs already.
start() {
  local name=$1
  shift
  ! runs "$name" || return 0
  setsid env -i PATH="$PATH" HOME="$RUN" "$@" >>"$LOG/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$RUN/$name.pid"
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
      tail -n 10 "$LOG/$name.log" >&2
      die "$name doesn't become ready: see $LOG/$name.log"
    fi
    sleep 0.1
  done
}
