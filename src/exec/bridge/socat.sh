# $1: where to; $2: the mark. When the pod's side ends, socat closes its output, and still reads its input.
socat -d -d -t 31536000 'STDIN!!FD:1,shut-close' "$1" | {
  cat
  printf %s "$2"
}
