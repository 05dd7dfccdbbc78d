import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { type FileSystem, RecordedDisk, recordingObstacle } from './recorded-disk.ts';

/** Without root or a program the test is skipped with the reason; with CI=true that is a failure. */
export function canRecord(t: Test): boolean {
  const obstacle = recordingObstacle();
  if (obstacle === null) return true;
  if (process.env['CI'] === 'true') t.fail(obstacle);
  else t.plan(0, obstacle);
  return false;
}

/** A recording disk in a folder of its own; both go away with the test. */
export async function onRecordedDisk(
  t: Test,
  kind: FileSystem,
): Promise<{ disk: RecordedDisk; dir: string }> {
  // a UNIX socket's name must be short
  const dir = mkdtempSync(join(tmpdir(), 'stor-cut-'));
  const disk = await RecordedDisk.create(dir, kind);
  t.teardown(async () => {
    await disk.close();
    rmSync(dir, { recursive: true, force: true });
  });
  return { disk, dir };
}
