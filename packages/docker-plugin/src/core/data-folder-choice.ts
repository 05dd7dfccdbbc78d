/**
 * The folder in a volume that containers get. Not the file system's root: that has `lost+found`, and databases
 * refuse a folder that is not empty.
 */
export const dataFolderName = 'stor-data';

/**
 * What of a mounted file system is given to containers, from the names in its root: our folder, which
 * is made first on a new one, or the root itself when somebody else has put files there.
 */
export function dataFolderChoice(names: readonly string[]): 'folder' | 'make' | 'root' {
  if (names.includes(dataFolderName)) return 'folder';
  return names.every((name) => name === 'lost+found') ? 'make' : 'root';
}
