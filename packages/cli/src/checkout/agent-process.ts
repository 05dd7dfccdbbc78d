import { spawn, type ChildProcess } from 'node:child_process';
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  readSync,
  readlinkSync,
  renameSync,
  statSync,
} from 'node:fs';
import { resolve } from 'node:path';

/** A log larger than this is put aside (as `.1`) when its agent starts. */
const maxLogBytes = 16 * 1024 * 1024;
const tailBytes = 64 * 1024;
const tailLines = 15;

export interface RunningAgent {
  pid: number;
  /** of /proc/PID/stat: tells a process from a later one with the same id */
  startTicks: string;
}

/**
 * The agent that a pid file names, or null. A process counts only when it runs the agent's program
 * with this very config file: ids are used again, and nothing of others may be stopped.
 */
export function findAgent(pidFile: string, configFile: string): RunningAgent | null {
  const text = readText(pidFile);
  if (text === null || !/^[1-9][0-9]*\s*$/.test(text)) return null;
  const pid = Number(text);
  const startTicks = startTicksOf(pid);
  const words = readText(`/proc/${pid}/cmdline`)?.split('\0') ?? [];
  if (
    startTicks === null ||
    !words.some((word) => /node-agent\/(dist\/)?src\/main\.[jt]s$/.test(word))
  ) {
    return null;
  }
  const at = words.findIndex((word) => word === '--config' || word.startsWith('--config='));
  if (at < 0) return null;
  const given = words[at]?.startsWith('--config=') ? words[at].slice(9) : words[at + 1];
  const cwd = workingDirectoryOf(pid);
  if (given === undefined || cwd === null || resolve(cwd, given) !== configFile) return null;
  return { pid, startTicks };
}

/** False also when the id has gone to another process. */
export function isAlive(agent: RunningAgent): boolean {
  return startTicksOf(agent.pid) === agent.startTicks;
}

/** Sends a signal unless the process is gone. */
export function signalAgent(agent: RunningAgent, signal: NodeJS.Signals): void {
  if (!isAlive(agent)) return;
  try {
    process.kill(agent.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

export interface StartedAgent {
  child: ChildProcess;
  /** where this run's lines begin in the log */
  logStart: number;
}

/** Starts an agent that outlives this process; its output goes to the log file. */
export function startAgent(options: {
  agentMain: string;
  configFile: string;
  logFile: string;
  cwd: string;
}): StartedAgent {
  const { logFile } = options;
  const logBytes = statSync(logFile, { throwIfNoEntry: false })?.size ?? 0;
  if (logBytes > maxLogBytes) renameSync(logFile, `${logFile}.1`);
  const log = openSync(logFile, 'a');
  try {
    const child = spawn(process.execPath, [options.agentMain, '--config', options.configFile], {
      cwd: options.cwd,
      detached: true,
      stdio: ['ignore', log, log],
      // All disks share the thread pool with the Raft log: Node's default of 4 threads starves it.
      env: { UV_THREADPOOL_SIZE: '64', ...process.env },
    });
    child.unref();
    return { child, logStart: logBytes > maxLogBytes ? 0 : logBytes };
  } finally {
    closeSync(log);
  }
}

/** The last lines that an agent logged from `start` on, readable. */
export function logTail(logFile: string, start: number): string {
  if (!existsSync(logFile)) return '';
  const file = openSync(logFile, 'r');
  try {
    const end = statSync(logFile).size;
    const from = Math.max(start, end - tailBytes);
    const bytes = Buffer.alloc(Math.max(0, end - from));
    const read = readSync(file, bytes, 0, bytes.length, from);
    const lines = bytes
      .toString('utf8', 0, read)
      .split('\n')
      .filter((line) => line !== '');
    return lines.slice(-tailLines).map(readableLine).join('\n');
  } finally {
    closeSync(file);
  }
}

const levelNames: Readonly<Record<number, string>> = {
  20: 'debug',
  30: 'info',
  40: 'warn',
  50: 'error',
  60: 'fatal',
};

/** A JSON line of the logger as `level message {facts}`; any other line as it is. */
function readableLine(line: string): string {
  try {
    const {
      level,
      msg,
      time: _time,
      pid: _pid,
      hostname: _host,
      node: _node,
      ...facts
    } = JSON.parse(line) as Record<string, unknown>;
    const name = levelNames[Number(level)] ?? String(level);
    const rest = Object.keys(facts).length === 0 ? '' : ` ${JSON.stringify(facts)}`;
    return `${name} ${String(msg)}${rest}`;
  } catch {
    return line;
  }
}

function startTicksOf(pid: number): string | null {
  const stat = readText(`/proc/${pid}/stat`);
  if (stat === null) return null;
  // "pid (comm) state ppid ...": the name may hold anything, so fields count from its last ")".
  // proc(5): state is field 3, starttime field 22.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (fields[0] === 'Z' || fields[0] === 'X') return null;
  return fields[19] ?? null;
}

function workingDirectoryOf(pid: number): string | null {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    // it ended, or is another user's
    return null;
  }
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return null;
    throw error;
  }
}
