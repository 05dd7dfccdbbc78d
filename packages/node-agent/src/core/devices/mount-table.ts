/** One line of /proc/self/mountinfo. */
export interface MountEntry {
  /** `8:16` */
  device: string;
  directory: string;
  type: string;
  /** `/dev/sdb`, or what the file system calls its source */
  source: string;
}

/** Parses /proc/self/mountinfo (proc_pid_mountinfo(5)); lines of another form are left out. */
export function parseMountTable(text: string): MountEntry[] {
  return text.split('\n').flatMap((line) => {
    const [left = '', right = ''] = line.split(' - ');
    const [, , device, , directory] = left.split(' ');
    const [type, source] = right.split(' ');
    if (device === undefined || directory === undefined || type === undefined) return [];
    return [{ device, directory: unescaped(directory), type, source: unescaped(source ?? '') }];
  });
}

/** The entry of the mount that a path lies on: the longest prefix, the last of equals. */
export function mountOf(table: readonly MountEntry[], path: string): MountEntry | null {
  let best: MountEntry | null = null;
  for (const entry of table) {
    const { directory } = entry;
    const isAbove = directory === '/' || path === directory || path.startsWith(`${directory}/`);
    if (isAbove && (!best || directory.length >= best.directory.length)) best = entry;
  }
  return best;
}

/** The kernel writes blanks, tabs, newlines and backslashes as octal numbers. */
function unescaped(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_all, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

/** What `wipefs --json` found, in words. */
export function parseSignatures(text: string): string[] {
  if (text.trim() === '') return [];
  const parsed = JSON.parse(text) as { signatures?: { type?: unknown; label?: unknown }[] };
  return (parsed.signatures ?? []).map(({ type, label }) => {
    const kind = typeof type === 'string' ? type : 'unknown';
    const name = typeof label === 'string' && label !== '' ? ` "${label}"` : '';
    return `a signature of ${kind}${name}`;
  });
}
