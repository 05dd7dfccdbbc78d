import { fileSystems, type FileSystem } from '@stor/host-attach';
import { labelTextOf, textOfLabel } from './label-text.ts';
import { ownLabelPrefix } from './volume-options.ts';

/** How the file system on a volume is made and mounted, wherever that is. */
export interface FileSystemOptions {
  /** absent: nobody has said; what is there, and ext4 on a new volume */
  fileSystem?: FileSystem;
  formatOptions?: string[];
  mountOptions?: string[];
}

const fsLabel = `${ownLabelPrefix}fs`;
const mkfsLabel = `${ownLabelPrefix}mkfs-options`;
const mountLabel = `${ownLabelPrefix}mount-options`;

/**
 * The labels that say it. They are on the volume, and not in a file of the node on which it was created: the
 * first mount, which makes the file system, may be on another one.
 */
export function fileSystemLabels(options: FileSystemOptions): Record<string, string> {
  const { fileSystem, formatOptions, mountOptions } = options;
  return {
    ...(fileSystem === undefined ? {} : { [fsLabel]: fileSystem }),
    ...(formatOptions === undefined ? {} : { [mkfsLabel]: labelTextOf(formatOptions.join(' ')) }),
    ...(mountOptions === undefined ? {} : { [mountLabel]: labelTextOf(mountOptions.join(',')) }),
  };
}

/** What a volume's labels say; one that an operator has spoilt says nothing. */
export function fileSystemOptionsOf(labels: Readonly<Record<string, string>>): FileSystemOptions {
  const fileSystem = fileSystems.find((each) => each === labels[fsLabel]);
  const formatOptions = wordsOf(labels[mkfsLabel], ' ');
  const mountOptions = wordsOf(labels[mountLabel], ',');
  return {
    ...(fileSystem === undefined ? {} : { fileSystem }),
    ...(formatOptions === null ? {} : { formatOptions }),
    ...(mountOptions === null ? {} : { mountOptions }),
  };
}

function wordsOf(value: string | undefined, between: string): string[] | null {
  const text = value === undefined ? null : textOfLabel(value);
  return text === null || text === '' ? null : text.split(between);
}
