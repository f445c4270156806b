use strict; use IO::Socket::IP; use IO::Socket::UNIX;
my ($host, $port, $mark) = @ARGV;
my $s = $host eq 'unix' ? IO::Socket::UNIX->new(Peer => $port)
  : IO::Socket::IP->new(PeerHost => $host, PeerPort => $port);
$s or do { print STDERR "$!\n"; exit 1 };
$SIG{PIPE} = 'IGNORE';
sub put {
  my ($to, $bytes) = @_;
  while (length $bytes) {
    my $n = syswrite $to, $bytes;
    defined $n or return 0;
    substr($bytes, 0, $n) = '';
  }
  1;
}
my $b;
my $up = fork // do { print STDERR "$!\n"; exit 1 };
if (!$up) {
  close STDOUT;
  while (sysread STDIN, $b, 65536) { put($s, $b) or exit 0 }
  shutdown $s, 1;
  exit 0;
}
my $n;
while ($n = sysread $s, $b, 65536) { put(*STDOUT, $b) or do { kill 9, $up; exit 1 } }
if (!defined $n) { print STDERR "$!\n"; kill 9, $up; exit 1 }
put(*STDOUT, $mark);
waitpid $up, 0;
exit 0;
