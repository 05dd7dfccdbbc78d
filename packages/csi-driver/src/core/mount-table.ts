/** One line of /proc/self/mountinfo (proc_pid_mountinfo(5)). */
export interface MountLine {
  /** `7:3`: of the file system */
  device: string;
  /** what of the file system is mounted */
  root: string;
  directory: string;
  readOnly: boolean;
}

/** Lines of another form are left out. */
export function parseMountTable(text: string): MountLine[] {
  return text.split('\n').flatMap((line) => {
    const [left = '', right = ''] = line.split(' - ');
    const [, , device, root, directory, options] = left.split(' ');
    if (device === undefined || root === undefined || directory === undefined) return [];
    const [, , superOptions = ''] = right.split(' ');
    // a mount is read-only by itself, or because its whole file system is
    const flags = [...(options ?? '').split(','), ...superOptions.split(',')];
    return [
      {
        device,
        root: unescaped(root),
        directory: unescaped(directory),
        readOnly: flags.includes('ro'),
      },
    ];
  });
}

/** What is to be seen at a directory: of several mounts over each other, the last. */
export function mountAt(table: readonly MountLine[], directory: string): MountLine | null {
  return table.findLast((line) => line.directory === directory) ?? null;
}

/** Other places of the folder that is mounted at `source`. */
export function bindsOfFolder(table: readonly MountLine[], source: string): MountLine[] {
  const own = mountAt(table, source);
  if (!own) return [];
  return table.filter(
    ({ device, root, directory }) =>
      device === own.device && root === own.root && directory !== source,
  );
}

/** Mounts of a single file that is called as the node of the device: candidates, their number is to be compared. */
export function maybeBindsOfDevice(table: readonly MountLine[], path: string): MountLine[] {
  const name = path.slice(path.lastIndexOf('/'));
  return table.filter(({ root }) => root.endsWith(name));
}

/** The kernel writes blanks, tabs, newlines and backslashes as octal numbers. */
function unescaped(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_all, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}
