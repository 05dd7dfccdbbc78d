import { join } from 'node:path';
import type { AcceptReport } from './accept-report.ts';
import { checkoutRoot } from './checkout.ts';
import { runCommand } from './run-command.ts';

const timeoutMs = 60 * 60_000;

/** Test files that show one thing, some of them with more seeds than in CI. */
export interface Suite {
  name: string;
  files: string[];
  env?: Record<string, string>;
}

/** Runs test files and adds a line with their assertions. Returns what they printed, as TAP. */
export async function runSuite(report: AcceptReport, { name, files, env }: Suite): Promise<string> {
  const root = checkoutRoot();
  const args = [...files, '--reporter=tap', '--disable-coverage', `--timeout=${timeoutMs / 1000}`];
  // as in CI: what cannot run for want of a package has failed
  const { code, stdout } = await runCommand(join(root, 'node_modules/.bin/tap'), args, {
    cwd: root,
    env: { ...process.env, CI: 'true', ...env },
    timeoutMs,
  });
  if (code !== 0) process.stderr.write(stdout);
  const [, sum = ''] = /^# \{ (total: .*) \}$/m.exec(stdout) ?? [];
  const count = (what: string): number => {
    return Number(new RegExp(`\\b${what}: (\\d+)`).exec(sum)?.[1] ?? 0);
  };
  const [passed, failed, skipped] = [count('pass'), count('fail'), count('skip')];
  report.add(
    name,
    `${passed} passed, ${failed} failed, ${skipped} skipped`,
    'all pass',
    code === 0 && passed > 0 && failed === 0 && skipped === 0,
  );
  return stdout;
}
