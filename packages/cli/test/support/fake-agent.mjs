// Stands in for the agent: takes --config, listens on the HTTP port, writes the pid file, obeys
// SIGTERM. What it should do wrong stands in the file `behaviour` beside the config.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';

const configFile = process.argv[process.argv.indexOf('--config') + 1];
const config = readFileSync(configFile, 'utf8');
const value = (name) => new RegExp(`^\\s*${name}: (.+)$`, 'm').exec(config)[1];
const behaviourFile = join(dirname(configFile), 'behaviour');
const behaviour = existsSync(behaviourFile) ? readFileSync(behaviourFile, 'utf8') : '';
if (behaviour === 'fail') {
  console.log(
    JSON.stringify({
      level: 50,
      time: 1,
      pid: 2,
      hostname: 'h',
      msg: 'data folder of another cluster',
      folder: 'x',
    }),
  );
  console.error('error: this node belongs to another cluster');
  process.exit(5);
}
process.on('SIGTERM', () => {
  if (behaviour !== 'stubborn') process.exit(0);
});
let asked = 0;
createServer((request, response) => {
  // ready from the second question on, as a real agent is not ready at once
  asked += 1;
  response.statusCode = request.url === '/readyz' && asked > 1 ? 200 : 503;
  response.end(asked > 1 ? 'ready' : 'no leader yet');
}).listen(Number(value('http')), '127.0.0.1', () => {
  writeFileSync(value('pidFile'), `${process.pid}\n`);
});
