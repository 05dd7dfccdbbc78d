import { existsSync, readFileSync, readdirSync, rmdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { StorError } from '@stor/protocol';
import { parse } from 'yaml';
import { findAgent, isAlive, signalAgent, type RunningAgent } from './agent-process.ts';
import { nodeFiles } from './checkout-files.ts';

/** Time for an orderly stop before SIGKILL. */
const stopTimeoutMs = 20_000;
const killTimeoutMs = 5_000;
const pollMs = 50;

export interface StopOutcome {
  name: string;
  outcome: 'stopped' | 'killed' | 'was not running';
}

/**
 * Names of the nodes that have a folder in `stateDir`. Taken from the folders, not from
 * cluster.yaml, so that a cluster whose cluster.yaml was lost can be stopped and removed too.
 */
export function nodeNamesIn(stateDir: string): string[] {
  if (!existsSync(stateDir)) return [];
  return readdirSync(stateDir)
    .filter((name) => existsSync(nodeFiles(stateDir, name).configFile))
    .sort();
}

/**
 * Stops every agent: SIGTERM, and SIGKILL for those that still run after 20 s (safe: a write is
 * acknowledged only when it survives that, I1). UNAVAILABLE when a process survives even that.
 */
export async function stopAgents(stateDir: string): Promise<StopOutcome[]> {
  return Promise.all(nodeNamesIn(stateDir).map((name) => stopOne(stateDir, name)));
}

async function stopOne(stateDir: string, name: string): Promise<StopOutcome> {
  const agent = agentOf(stateDir, name);
  if (agent === null) return { name, outcome: 'was not running' };
  signalAgent(agent, 'SIGTERM');
  if (await isGone(agent, stopTimeoutMs)) return { name, outcome: 'stopped' };
  signalAgent(agent, 'SIGKILL');
  if (await isGone(agent, killTimeoutMs)) return { name, outcome: 'killed' };
  throw new StorError(
    'UNAVAILABLE',
    `agent ${name} (pid ${agent.pid}) does not end, not even after SIGKILL: it waits for a disk; look at the kernel's log`,
  );
}

/**
 * Removes cluster.yaml and the nodes' folders with all data, and `stateDir` if nothing else is in
 * it. FAILED_PRECONDITION while an agent runs.
 */
export async function purgeCheckout(stateDir: string): Promise<void> {
  const names = nodeNamesIn(stateDir);
  const running = names.filter((name) => agentOf(stateDir, name) !== null);
  if (running.length > 0) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `${running.join(', ')} still runs: stop the agents first, nothing was removed`,
    );
  }
  for (const name of names) {
    const { dir, configFile } = nodeFiles(stateDir, name);
    const config = parse(readFileSync(configFile, 'utf8')) as { nbdUnixDir?: unknown } | null;
    await rm(dir, { recursive: true, force: true });
    // May lie elsewhere, because a socket's path is short. Goes only when it is empty.
    if (typeof config?.nbdUnixDir === 'string') removeIfEmpty(config.nbdUnixDir);
  }
  await rm(join(stateDir, 'cluster.yaml'), { force: true });
  removeIfEmpty(stateDir);
}

function agentOf(stateDir: string, name: string): RunningAgent | null {
  const { pidFile, configFile } = nodeFiles(stateDir, name);
  return findAgent(pidFile, configFile);
}

async function isGone(agent: RunningAgent, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (isAlive(agent)) {
    if (performance.now() > deadline) return false;
    await delay(pollMs);
  }
  return true;
}

function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
  }
}
