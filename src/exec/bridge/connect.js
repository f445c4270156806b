const [host, port, mark] = process.argv.slice(1);
const to = host === 'unix' ? { path: port } : { host, port: +port };
const s = require('net').connect({ ...to, allowHalfOpen: true });
let ended = false;
s.on('error', e => {
  if (ended) process.exit(0);
  const first = (e.errors || [e])[0];
  const words = { ECONNREFUSED: 'Connection refused', ECONNRESET: 'Connection reset by peer' };
  require('fs').writeSync(2, (words[first.code] || first.message) + '\n');
  process.exit(1);
});
process.stdout.on('error', () => process.exit(1));
process.stdin.on('error', () => {});
s.on('connect', () => {
  process.stdin.pipe(s);
  s.pipe(process.stdout, { end: false });
});
s.on('end', () => { ended = true; process.stdout.write(mark); });
