import type { HeaderForm } from '../../src/index.ts';

/** A request as it was on the wire. */
export interface SeenRequest {
  cookie: bigint;
  type: number;
  flags: number;
  offset: number;
  length: number;
}

/** What a server has said about one request, up to the end of its answer. */
export interface Answer {
  isDone: boolean;
  hasError: boolean;
  /** of a read: how often each byte was sent, and what it was last */
  times: Uint8Array;
  data: Buffer;
  /** of a block status, by context: lengths and flags */
  statuses: Map<number, [number, number][]>;
}

/**
 * What the bytes of a server mean, read after the fact from all of them at once and with no care for
 * speed: the truth that the client's decoder is held against. It follows the frames and believes what
 * they say; a client may refuse more than this does, and never less.
 */
export function plainAnswers(
  bytes: Buffer,
  form: HeaderForm,
  requests: readonly SeenRequest[],
): Map<bigint, Answer> {
  const answers = new Map<bigint, Answer>();
  const asked = new Map<bigint, SeenRequest>();
  for (const request of requests) {
    const room = request.type === 0 ? request.length : 0;
    asked.set(request.cookie, request);
    answers.set(request.cookie, {
      isDone: false,
      hasError: false,
      times: new Uint8Array(room),
      data: Buffer.alloc(room),
      statuses: new Map(),
    });
  }
  const put = (cookie: bigint, offset: number, data: Buffer): boolean => {
    const request = asked.get(cookie);
    const answer = answers.get(cookie);
    if (!request || !answer || answer.isDone) return false;
    for (let at = 0; at < data.length; at++) {
      const index = offset - request.offset + at;
      if (index < 0 || index >= answer.times.length) return false;
      answer.times[index] = Math.min(9, answer.times[index]! + 1);
      answer.data[index] = data[at]!;
    }
    return true;
  };
  let at = 0;
  while (at + 16 <= bytes.length) {
    const magic = bytes.readUInt32BE(at);
    const isSimple = magic === 0x67446698;
    const cookie = bytes.readBigUInt64BE(at + 8);
    const request = asked.get(cookie);
    const answer = answers.get(cookie);
    if (!request || !answer || answer.isDone) return answers;
    if (isSimple) {
      const errno = bytes.readUInt32BE(at + 4);
      const dataBytes = errno === 0 && request.type === 0 ? request.length : 0;
      if (at + 16 + dataBytes > bytes.length) return answers;
      if (dataBytes > 0) put(cookie, request.offset, bytes.subarray(at + 16, at + 16 + dataBytes));
      answer.hasError ||= errno !== 0;
      answer.isDone = true;
      at += 16 + dataBytes;
      continue;
    }
    if (magic !== (form === 'extended' ? 0x6e8a278c : 0x668e33ef)) return answers;
    const headerBytes = form === 'extended' ? 32 : 20;
    if (at + headerBytes > bytes.length) return answers;
    const length =
      form === 'extended' ? Number(bytes.readBigUInt64BE(at + 24)) : bytes.readUInt32BE(at + 16);
    const bodyAt = at + headerBytes;
    if (bodyAt + length > bytes.length) return answers;
    const body = bytes.subarray(bodyAt, bodyAt + length);
    if (!plainChunk(bytes.readUInt16BE(at + 6), body, cookie, answer, put)) return answers;
    if ((bytes.readUInt16BE(at + 4) & 1) !== 0) answer.isDone = true;
    at = bodyAt + length;
  }
  return answers;
}

/** False for what no reading makes sense of. */
function plainChunk(
  type: number,
  body: Buffer,
  cookie: bigint,
  answer: Answer,
  put: (cookie: bigint, offset: number, data: Buffer) => boolean,
): boolean {
  if ((type & 0x8000) !== 0) {
    answer.hasError = true;
    return true;
  }
  if (type === 0) return true;
  if (type === 1) {
    return body.length > 8 && put(cookie, Number(body.readBigUInt64BE(0)), body.subarray(8));
  }
  if (type === 2) {
    if (body.length !== 12 || body.readUInt32BE(8) > 1 << 26) return false;
    return put(cookie, Number(body.readBigUInt64BE(0)), Buffer.alloc(body.readUInt32BE(8)));
  }
  const list: [number, number][] = [];
  if (type === 5 && body.length >= 4) {
    for (let at = 4; at + 8 <= body.length; at += 8) {
      list.push([body.readUInt32BE(at), body.readUInt32BE(at + 4)]);
    }
  } else if (type === 6 && body.length >= 8) {
    for (let at = 8; at + 16 <= body.length; at += 16) {
      list.push([Number(body.readBigUInt64BE(at)), Number(body.readBigUInt64BE(at + 8))]);
    }
  } else return false;
  answer.statuses.set(body.readUInt32BE(0), list);
  return true;
}
