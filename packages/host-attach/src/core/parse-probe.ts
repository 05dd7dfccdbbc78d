/** What `blkid -p -o export` says of a device: its keys with their values. */
export function parseBlkid(text: string): ReadonlyMap<string, string> {
  const lines = text.split('\n').flatMap((line): [string, string][] => {
    const at = line.indexOf('=');
    return at > 0 ? [[line.slice(0, at), line.slice(at + 1)]] : [];
  });
  return new Map(lines);
}

/** What `wipefs --no-act --json` found, in words. */
export function parseSignatures(text: string): string[] {
  if (text.trim() === '') return [];
  const parsed = JSON.parse(text) as { signatures?: { type?: unknown; label?: unknown }[] };
  const found = (parsed.signatures ?? []).map(({ type, label }) => {
    const kind = typeof type === 'string' ? type : 'unknown kind';
    const name = typeof label === 'string' && label !== '' ? ` "${label}"` : '';
    return `a signature of ${kind}${name}`;
  });
  // of a partition table there are several copies
  return [...new Set(found)];
}
