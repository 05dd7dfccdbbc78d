/** Parts of different requests begin at least so far from each other (bytes). */
const placeBytes = 4096;

type Views = (Uint8Array | undefined)[];

/** by buffer; of one that nobody has any more they go with it */
const viewsOf = new WeakMap<Uint8Array, Views>();
let lastBytes: Uint8Array | null = null;
let lastViews: Views = [];

/**
 * As `bytes.subarray(start, start + length)`, for use at once, of a buffer that is used again and again:
 * a request of a few KiB lies where one before it lay, and then the view of that one is given, so that it
 * needs no object of its own. Views are kept by the place of `placeBytes` in which they begin.
 */
export function partOf(bytes: Uint8Array, start: number, length: number): Uint8Array {
  const views = bytes === lastBytes ? lastViews : lookUp(bytes);
  const place = Math.floor(start / placeBytes);
  const kept = views[place];
  if (kept?.byteOffset === bytes.byteOffset + start && kept.length === length) return kept;
  const view = bytes.subarray(start, start + length);
  views[place] = view;
  return view;
}

function lookUp(bytes: Uint8Array): Views {
  let views = viewsOf.get(bytes);
  if (!views) {
    views = new Array<undefined>(Math.ceil(bytes.length / placeBytes));
    viewsOf.set(bytes, views);
  }
  lastBytes = bytes;
  lastViews = views;
  return views;
}
