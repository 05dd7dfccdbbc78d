import { gunzipSync, gzipSync } from 'node:zlib';
import path from 'node:path';
import type { Files } from '@stor/runtime';

/** A folder as data: what a disk held at one moment, holes left out. */
interface Archive {
  directories: string[];
  files: { path: string; sizeBytes: number; extents: [offset: number, base64: string][] }[];
}

/** Holes of this size and at multiples of it are left out. */
const pageBytes = 4096;

/** Packs every file below a folder. What holds no bytes is stored as a hole. */
export function packFolder(files: Files, root: string): Buffer {
  const archive: Archive = { directories: [], files: [] };
  const visit = (below: string): void => {
    for (const name of files.list(path.join(root, below))) {
      const own = path.join(below, name);
      if (isFolder(files, path.join(root, own))) {
        archive.directories.push(own);
        visit(own);
      } else archive.files.push({ path: own, ...contentOf(files, path.join(root, own)) });
    }
  };
  visit('');
  return gzipSync(JSON.stringify(archive), { level: 9 });
}

function isFolder(files: Files, at: string): boolean {
  try {
    files.list(at);
    return true;
  } catch {
    return false;
  }
}

function contentOf(files: Files, at: string): Omit<Archive['files'][number], 'path'> {
  const file = files.open(at);
  const { sizeBytes } = file.size();
  const extents: [number, string][] = [];
  let begin = -1;
  const flush = (end: number): void => {
    if (begin < 0) return;
    const bytes = Buffer.alloc(end - begin);
    file.readSync(bytes, 0, bytes.length, begin);
    extents.push([begin, bytes.toString('base64')]);
    begin = -1;
  };
  const page = Buffer.alloc(pageBytes);
  for (let offset = 0; offset < sizeBytes; offset += pageBytes) {
    const length = Math.min(pageBytes, sizeBytes - offset);
    file.readSync(page, 0, length, offset);
    if (page.subarray(0, length).every((byte) => byte === 0)) flush(offset);
    else if (begin < 0) begin = offset;
  }
  flush(sizeBytes);
  file.close();
  return { sizeBytes, extents };
}

/** Lays an archive out as a folder, durably. */
export function unpackFolder(bytes: Uint8Array, files: Files, root: string): void {
  const archive = JSON.parse(gunzipSync(bytes).toString('utf8')) as Archive;
  files.makeDirectory(root);
  for (const own of archive.directories) files.makeDirectory(path.join(root, own));
  for (const { path: own, sizeBytes, extents } of archive.files) {
    const file = files.create(path.join(root, own));
    file.truncate(sizeBytes);
    for (const [offset, base64] of extents) {
      const piece = Buffer.from(base64, 'base64');
      file.writeSync(piece, 0, piece.length, offset);
    }
    file.datasyncSync();
    file.close();
  }
  for (const own of ['', ...archive.directories]) files.syncDirectory(path.join(root, own));
  for (let at = path.resolve(root); at !== path.dirname(at);) {
    at = path.dirname(at);
    files.syncDirectory(at);
  }
}
