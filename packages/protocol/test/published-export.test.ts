import t from 'tap';
import {
  isPublicationEnded,
  parsePublishedExport,
  publicationEndedMessage,
  publishedExportName,
} from '../src/index.ts';

t.test('a device knows that its own right has ended, and takes nothing else for it', async (t) => {
  const name = publishedExportName('p-1', 'db');
  t.same(parsePublishedExport(name), { publication: 'p-1', volume: 'db' });
  const message = publicationEndedMessage('p-1', 'db');
  t.ok(isPublicationEnded(message, name));
  t.ok(isPublicationEnded(`10.0.0.1:17113: ${message}`, name), 'as a relay says it');
  t.ok(isPublicationEnded(publicationEndedMessage('p-1', 'db2'), name), 'whatever its name is now');
  t.notOk(isPublicationEnded(publicationEndedMessage('p-12', 'db'), name));
  t.notOk(isPublicationEnded('volume db is attached on n2', name));
  t.notOk(isPublicationEnded(message, 'db'));
});
