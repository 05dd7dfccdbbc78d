/** What the worker and those who look at its disk afterwards agree on. */
export const journalBytes = 16 * 4096;
export const diskIds = {
  expect: { clusterId: 'c-0000000000000001', nodeId: 'n-0000000000000001' },
  create: { diskId: 'd-0000000000000001' },
};

export function fillBlock(bytes: Buffer, index: number, value: number): void {
  const block = bytes.subarray(index * 4096, (index + 1) * 4096);
  block.writeInt32LE(value, 0);
  for (let done = 4; done < 4096; done *= 2) block.copyWithin(done, 0, done);
}

/** The value of a block, or null when it is not one value throughout. */
export function valueOf(bytes: Buffer, index: number): number | null {
  const block = bytes.subarray(index * 4096, (index + 1) * 4096);
  return block.compare(block, 4, 4096, 0, 4092) === 0 ? block.readInt32LE(0) : null;
}
