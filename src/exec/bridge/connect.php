[, $host, $port, $mark] = $argv;
$to = $host === 'unix' ? "unix://$port" : 'tcp://' . (strpos($host, ':') === false ? $host : "[$host]") . ":$port";
$s = @stream_socket_client($to, $code, $text, 60);
if (!$s) { fwrite(STDERR, "$text\n"); exit(1); }
$in = fopen('php://stdin', 'r'); $out = fopen('php://stdout', 'w');
foreach ([$s, $in, $out] as $f) { stream_set_blocking($f, false); stream_set_read_buffer($f, 0); stream_set_write_buffer($f, 0); }
$up = $down = ''; $told = $ended = false; $open = true;
while (true) {
  if (!$open && $up === '' && !$told) { stream_socket_shutdown($s, STREAM_SHUT_WR); $told = true; }
  if ($ended && $down === '' && $told) exit(0);
  $r = $w = []; $e = null;
  if ($open && strlen($up) < 65536) $r[] = $in;
  if (!$ended && strlen($down) < 65536) $r[] = $s;
  if ($up !== '') $w[] = $s;
  if ($down !== '') $w[] = $out;
  if (!$r && !$w) exit(0);
  if (stream_select($r, $w, $e, null) === false) exit(1);
  if (in_array($in, $r, true)) { $b = fread($in, 65536); if ($b === '' || $b === false) { if (feof($in)) $open = false; } else $up .= $b; }
  if (in_array($s, $r, true)) {
    $b = @stream_socket_recvfrom($s, 65536);
    if ($b === false) { fwrite(STDERR, "Connection reset by peer\n"); exit(1); }
    if ($b === '') { $ended = true; $down .= $mark; } else $down .= $b;
  }
  if (in_array($s, $w, true)) { $n = @fwrite($s, $up); if ($n === false) { $up = ''; $open = false; $told = true; } else $up = (string) substr($up, $n); }
  if (in_array($out, $w, true)) { $n = @fwrite($out, $down); if ($n === false) exit(1); $down = (string) substr($down, $n); }
}
