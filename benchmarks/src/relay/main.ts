import { createServer } from 'node:net';
import { parseArgs } from 'node:util';
import { ReconnectingNbdClient } from 'nbd-client-js';
import { RelayConnection } from './relay-connection.ts';

/**
 * main.js --socket PATH --uri URI [--uri URI ...] [--give-up-ms N]: serves the export of the URIs
 * on a UNIX socket. When the server behind it goes away, it connects to another one and sends again
 * what was not answered: so a program whose NBD client knows one server only, such as fio, lives
 * through the loss of that server. Prints {"listening":PATH} when it serves and, at SIGTERM,
 * {"errors":[...]}: every error that a request was answered with.
 */
const { values } = parseArgs({
  options: {
    socket: { type: 'string' },
    uri: { type: 'string', multiple: true },
    'give-up-ms': { type: 'string', default: '60000' },
  },
});
const maxErrors = 20;

const giveUpMs = Number(values['give-up-ms']);
const target = await ReconnectingNbdClient.connect({
  addresses: values.uri ?? [],
  giveUpMs,
  firstGiveUpMs: giveUpMs,
});
const errors: string[] = [];
const server = createServer({ noDelay: true }, (socket) => {
  new RelayConnection(socket, target, (error) => {
    if (errors.length < maxErrors) errors.push(String(error));
  });
});
process.once('SIGTERM', () => {
  process.stdout.write(`${JSON.stringify({ errors })}\n`);
  server.close();
  void target.close().then(() => process.exit(errors.length === 0 ? 0 : 1));
});
server.listen(values.socket, () => {
  process.stdout.write(`${JSON.stringify({ listening: values.socket })}\n`);
});
