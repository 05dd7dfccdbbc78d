/** One line of /proc/self/mountinfo. */
export interface MountEntry {
  /** of the block device, `7:3` */
  device: string;
  /** what of the file system is mounted: `/`, or a folder of it */
  root: string;
  target: string;
  /** of this mount; the file system itself may be writable */
  readOnly: boolean;
  type: string;
  /** `/dev/loop3`, or what the file system calls its source */
  source: string;
  /** what is mounted below it is seen in other namespaces too */
  shared: boolean;
}

/** Parses /proc/self/mountinfo (proc_pid_mountinfo(5)); lines of another form are left out. */
export function parseMountInfo(text: string): MountEntry[] {
  return text.split('\n').flatMap((line) => {
    const separator = line.indexOf(' - ');
    if (separator < 0) return [];
    const [, , device, root, target, options, ...tags] = line.slice(0, separator).split(' ');
    const [type, source = ''] = line.slice(separator + 3).split(' ');
    if (device === undefined || root === undefined || target === undefined) return [];
    if (options === undefined || type === undefined) return [];
    return [
      {
        device,
        root: unescapeMount(root),
        target: unescapeMount(target),
        readOnly: options.split(',').includes('ro'),
        type,
        source: unescapeMount(source),
        shared: tags.some((tag) => tag.startsWith('shared:')),
      },
    ];
  });
}

/**
 * What is seen at a path: the last mount there, which lies over those before. Null when nothing is
 * mounted at the path itself.
 */
export function mountAt(table: readonly MountEntry[], target: string): MountEntry | null {
  return table.findLast((entry) => entry.target === target) ?? null;
}

/** The mount that a path lies on: the longest prefix, the last of equals. */
export function mountOf(table: readonly MountEntry[], path: string): MountEntry | null {
  let best: MountEntry | null = null;
  for (const entry of table) {
    const { target } = entry;
    const isAbove = target === '/' || path === target || path.startsWith(`${target}/`);
    if (isAbove && (!best || target.length >= best.target.length)) best = entry;
  }
  return best;
}

/** The kernel writes blanks, tabs, newlines and backslashes as octal numbers of bytes. */
function unescapeMount(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_all, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}
