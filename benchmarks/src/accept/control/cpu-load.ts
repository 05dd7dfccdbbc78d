import { spawn, type ChildProcess } from 'node:child_process';
import { availableParallelism } from 'node:os';

/** Processes that do nothing but compute: twice as many as there are cores, so that agents wait. */
export async function underLoad<T>(run: () => Promise<T>): Promise<T> {
  const children: ChildProcess[] = [];
  try {
    for (let i = 0; i < 2 * availableParallelism(); i += 1) {
      children.push(spawn(process.execPath, ['-e', 'for (;;) {}'], { stdio: 'ignore' }));
    }
    return await run();
  } finally {
    await Promise.all(children.map((child) => ended(child)));
  }
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
    child.kill('SIGKILL');
  });
}
