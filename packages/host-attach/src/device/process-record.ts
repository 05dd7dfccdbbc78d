import fs from 'node:fs';
import { z } from 'zod';

/** Which process serves a device: a number alone may be another process's by now. */
export interface ProcessRecord {
  pid: number;
  /** when it started, since the boot (clock ticks) */
  startTicks: string;
  bootId: string;
  /** its block device, when that is there */
  path?: string | undefined;
}

const record = z.object({
  pid: z.int().positive(),
  startTicks: z.string(),
  bootId: z.string(),
  path: z.string().optional(),
});

/** Null: there is no such process. */
export function processRecordOf(pid: number): ProcessRecord | null {
  try {
    const bootId = fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
    // the name of the program, in brackets, may have any character
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [state, startTicks] = [fields[0], fields[19]];
    if (startTicks === undefined || state === 'X') return null;
    // one that has ended and was not waited for is gone, once its last thread has ended
    if (state === 'Z' && fs.readdirSync(`/proc/${pid}/task`).length <= 1) return null;
    return { pid, startTicks, bootId };
  } catch {
    return null;
  }
}

/** Of this process. */
export function writeProcessRecord(file: string, path?: string): void {
  const text = JSON.stringify({ ...processRecordOf(process.pid), path });
  fs.writeFileSync(`${file}.new`, text, { mode: 0o600 });
  fs.renameSync(`${file}.new`, file);
}

/** What the record says, whether its process lives or not. */
export function readProcessRecord(file: string): ProcessRecord | null {
  try {
    return record.parse(JSON.parse(fs.readFileSync(file, 'utf8')));
  } catch {
    return null;
  }
}

/** The process that wrote the record, if it lives. */
export function livingProcess(file: string): ProcessRecord | null {
  const written = readProcessRecord(file);
  return written && lives(written) ? written : null;
}

export function lives(written: ProcessRecord): boolean {
  const now = processRecordOf(written.pid);
  return now?.startTicks === written.startTicks && now.bootId === written.bootId;
}

/** SIGKILL, and only to that process. */
export function killProcess(written: ProcessRecord): void {
  if (!lives(written)) return;
  try {
    process.kill(written.pid, 'SIGKILL');
  } catch {
    // it has just ended
  }
}
