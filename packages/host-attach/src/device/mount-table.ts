import fs from 'node:fs';

export interface MountLine {
  /** `7:3` */
  device: string;
  target: string;
  /** `/dev/loop3` */
  source: string;
}

/** What is mounted in the mount namespace of this process, oldest first. Asks no file system. */
export function mountTable(file = '/proc/self/mountinfo'): MountLine[] {
  return parseMountInfo(fs.readFileSync(file, 'utf8'));
}

/** proc_pid_mountinfo(5) */
export function parseMountInfo(text: string): MountLine[] {
  const mounts: MountLine[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const dash = fields.indexOf('-', 6);
    const [, , device, , target] = fields;
    const source = fields[dash + 2];
    if (dash < 0 || device === undefined || target === undefined || source === undefined) continue;
    mounts.push({ device, target: plain(target), source: plain(source) });
  }
  return mounts;
}

/** Blanks and the like are written as octal numbers. */
function plain(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(parseInt(octal, 8)),
  );
}
