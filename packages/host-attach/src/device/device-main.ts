import { spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import { fileURLToPath } from 'node:url';
import { StorError } from '@stor/protocol';
import { becomeIoFlusher, systemClock } from '@stor/runtime';
import { openDeviceLog } from './device-log.ts';
import { deviceFiles } from './device-files.ts';
import { errorText, parseSpec, stateText } from './device-messages.ts';
import { DeviceProcess } from './device-process.ts';
import { readLine } from './line-socket.ts';
import { writeProcessRecord } from './process-record.ts';

/**
 * `launch FILE` and `serve FILE`, each with a socket to the agent as descriptor 3. The first says that
 * it writes pages back and starts the second: only so do all its threads have that, as Node has some
 * before any code runs. And the device is nobody's child then, so that nobody has to wait for it.
 */
const agentFd = 3;
/** Never killed for want of memory: what is mounted on the device would be lost. */
const neverKilled = '-1000';

function launch(file: string): void {
  const refusal = becomeIoFlusher();
  const note = refusal ?? '';
  const main = fileURLToPath(import.meta.url);
  const child = spawn(process.execPath, [...process.execArgv, main, 'serve', file, note], {
    // systemd leaves programs of root with this sign alone when it ends all others at a shutdown
    argv0: '@stor-device',
    cwd: '/',
    detached: true,
    stdio: ['ignore', 'inherit', 'inherit', agentFd],
  });
  child.once('error', (error) => {
    fs.writeSync(agentFd, `${errorText(StorError.from(error))}\n`);
    process.exit(1);
  });
  child.once('spawn', () => process.exit(0));
}

async function serve(file: string, note: string): Promise<void> {
  const agent = new net.Socket({ fd: agentFd, allowHalfOpen: true });
  agent.on('error', () => {});
  const text = fs.readFileSync(file, 'utf8');
  fs.rmSync(file);
  let device: DeviceProcess | null = null;
  const aborted = new AbortController();
  process.on('SIGTERM', () => {
    if (device) void device.stopIfUnused();
    else aborted.abort();
  });
  // the agent says nothing more: it gives up, or was killed
  void readLine(agent).then(() => aborted.abort());
  try {
    const spec = parseSpec(text);
    const logger = openDeviceLog({ device: spec.id, pid: process.pid });
    if (note !== '') logger.warn({ why: note }, 'under want of memory the kernel may wait for us');
    keepAlive((why) => logger.warn({ why }, 'this process may be killed for want of memory'));
    const { record } = deviceFiles(spec.id, spec.dir);
    writeProcessRecord(record);
    try {
      device = await DeviceProcess.start(spec, { clock: systemClock, logger }, aborted.signal);
    } catch (error) {
      fs.rmSync(record, { force: true });
      logger.error({ error: StorError.from(error).message }, 'there is no device');
      throw error;
    }
  } catch (error) {
    agent.end(`${errorText(StorError.from(error))}\n`, endProcess);
    return;
  }
  // it may be gone: then the next agent finds the device
  agent.end(`${stateText(device.state())}\n`, () => agent.destroy());
  const inOrder = await device.ended;
  await device.close();
  if (inOrder) process.exit(0);
  endProcess();
}

function keepAlive(warn: (why: string) => void): void {
  try {
    fs.writeFileSync('/proc/self/oom_score_adj', neverKilled);
  } catch (error) {
    warn((error as Error).message);
  }
  // whoever ends a terminal or a group of processes does not mean the device
  for (const signal of ['SIGHUP', 'SIGINT'] as const) process.on(signal, () => {});
}

/** A thread may wait in the kernel, and Node's own end waits for its threads. */
function endProcess(): void {
  process.kill(process.pid, 'SIGKILL');
}

const [, , verb, file, note = ''] = process.argv;
if (file === undefined || (verb !== 'launch' && verb !== 'serve')) {
  process.stderr.write('stor-device is started by stor-agent only\n');
  process.exit(2);
} else if (verb === 'launch') launch(file);
else await serve(file, note);
