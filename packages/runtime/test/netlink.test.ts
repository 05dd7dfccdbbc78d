import fc from 'fast-check';
import t from 'tap';
import { familyOf, familyQuery, nbdAttributes } from '../src/core/nbd-netlink.ts';
import {
  decodeAttributes,
  decodeNetlinkMessages,
  encodeAttributes,
  encodeNetlinkRequest,
  listAttributes,
  textAttribute,
} from '../src/core/netlink-codec.ts';
import { NetlinkNbd } from '../src/index.ts';

const plain = { noNullPrototype: true };
const value = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
const attributes = fc.array(fc.record({ type: fc.integer({ min: 0, max: 0x3fff }), value }, plain));

t.test('attributes come back as they were', async () => {
  fc.assert(
    fc.property(attributes, (list) => {
      const bytes = encodeAttributes(list);
      t.equal(bytes.length % 4, 0);
      t.strictSame(listAttributes(bytes), list);
      // in a nest as well
      const [nest] = listAttributes(encodeAttributes([{ type: 7, value: list }]));
      t.equal(nest?.type, 7);
      t.strictSame(listAttributes(nest?.value ?? Buffer.alloc(0)), list);
    }),
  );
});

t.test('messages come back as they were, several in one receive', async () => {
  const request = fc.record({
    family: fc.integer({ min: 16, max: 0xffff }),
    flags: fc.integer({ min: 0, max: 0xffff }),
    sequence: fc.nat(),
    command: fc.nat(255),
    version: fc.nat(255),
    attributes,
  });
  fc.assert(
    fc.property(fc.array(request), (requests) => {
      const bytes = Buffer.concat(requests.map(encodeNetlinkRequest));
      const messages = decodeNetlinkMessages(bytes);
      t.equal(messages.length, requests.length);
      for (const [at, { family, sequence, command, attributes: list }] of requests.entries()) {
        const body = encodeAttributes(list);
        t.strictSame(messages[at], {
          kind: 'message',
          ...{ family, sequence, command, attributes: body },
        });
      }
    }),
  );
});

t.test('whatever comes, decoding ends', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (raw) => {
      const bytes = Buffer.from(raw);
      for (const message of decodeNetlinkMessages(bytes)) {
        if (message.kind !== 'message') continue;
        familyOf(message.attributes);
      }
      decodeAttributes(bytes);
      t.ok(listAttributes(bytes).length <= bytes.length / 4);
    }),
  );
});

t.test('the kernel’s answers', async (t) => {
  // NLMSG_ERROR with -2, in answer to the request of sequence 5
  const refusal = Buffer.alloc(36);
  refusal.writeUInt32LE(36, 0);
  refusal.writeUInt16LE(2, 4);
  refusal.writeUInt32LE(5, 8);
  refusal.writeInt32LE(-2, 16);
  t.strictSame(decodeNetlinkMessages(refusal), [{ kind: 'ack', sequence: 5, errno: 2 }]);

  const family = encodeAttributes([
    { type: 1, value: Buffer.from([0x1b, 0]) },
    textAttribute(2, 'nbd'),
  ]);
  t.equal(familyOf(family), 27);
  t.equal(familyOf(encodeAttributes(familyQuery('nbd'))), null, 'a question has no number');
});

t.test('what a device is connected with, byte for byte', async (t) => {
  const bytes = encodeAttributes(
    nbdAttributes(2, { sizeBytes: 2 ** 40, timeoutSeconds: 5, sockets: [17] }),
  );
  t.equal(
    bytes.toString('hex'),
    [
      '0800010002000000',
      '0c0002000000000000010000',
      '0c0004000500000000000000',
      // SOCKETS, nested: ITEM, nested: FD
      '10000780' + '0c000180' + '0800010011000000',
    ].join(''),
  );
});

t.test('this kernel', async (t) => {
  // null where it has no NBD; any other answer of netlink is an error
  const link = await NetlinkNbd.open();
  t.pass(link ? 'has NBD' : 'has no NBD');
  // a device that nobody has
  if (link) await t.rejects(link.disconnect(0xffff_fff0), /netlink DISCONNECT: errno/);
});
