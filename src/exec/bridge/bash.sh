# $1: host; $2: port. A shell can't close half of a socket: when stdin ends, the connection does.
exec 3<>"/dev/tcp/$1/$2" || exit 1
exec 4<&0
cat <&3 &
down=$!
(
  cat <&4 >&3 2>/dev/null &
  trap "kill $!" TERM
  wait $! && kill $down
) &
up=$!
wait $down
code=$?
kill $up 2>/dev/null
# It was the end of stdin that has ended it.
[ $code -gt 128 ] && code=0
exit $code
