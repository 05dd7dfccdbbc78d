import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';

/** True when a program is on the PATH. */
export function hasProgram(name: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/**
 * Whether the test can go on. A missing program skips the test and says which Debian package has
 * it; with CI=true it is a failure, as CI installs them all.
 */
export function needs(t: Test, program: string, debianPackage: string): boolean {
  if (hasProgram(program)) return true;
  const message = `${program} is missing: apt-get install ${debianPackage}`;
  if (process.env['CI'] === 'true') t.fail(message);
  else t.plan(0, message);
  return false;
}
