import t from 'tap';
import { checkAgentSettings } from '../src/config.ts';
import { dockerSocket } from '../src/docker/docker-config.ts';
import { readCommandLine } from '../src/formation/command-line.ts';

const settings = {
  dataDir: '/var/lib/stor',
  listen: { api: 1, http: 2, peers: 3, nbd: [4] },
};

function dockerOf(docker: unknown): unknown {
  return checkAgentSettings({ ...settings, docker }, 'test').docker;
}

t.test('there is a Docker plug-in where the configuration says so', async (t) => {
  t.equal(checkAgentSettings(settings, 'test').docker, undefined);
  t.same(dockerOf({}), {});
  t.equal(dockerSocket({}), '/run/docker/plugins/stor.sock');
  t.equal(dockerSocket({ name: 'stor-a' }), '/run/docker/plugins/stor-a.sock');
  t.equal(dockerSocket({ socket: '/run/stor/docker.sock' }), '/run/stor/docker.sock');
  const spec = { socket: '/run/stor/docker.sock', specFile: '/etc/docker/plugins/stor.spec' };
  t.same(dockerOf(spec), spec);
  t.same(dockerOf({ defaults: { size: '20GiB' } }), { defaults: { size: '20GiB' } });
  for (const [docker, pattern] of [
    [{ name: 'a/b' }, /docker\.name/],
    [{ name: 'a', socket: '/run/x.sock' }, /give name or socket/],
    [{ socket: 'x.sock' }, /docker\.socket/],
    [{ socket: `/run/${'x'.repeat(110)}` }, /room for 107/],
    [{ specFile: '/etc/docker/plugins/stor.spec' }, /specFile goes with socket/],
    [{ socket: '/run/x.sock', specFile: '/etc/stor.json' }, /docker\.specFile/],
    [{ defaults: { sise: '1GiB' } }, /did you mean size/],
    [{ defaults: { from: 'db' } }, /from is no default/],
    [{ sockets: [] }, /sockets/],
  ] as const) {
    t.throws(() => dockerOf(docker), { code: 'INVALID_ARGUMENT', message: pattern });
  }
});

t.test('a flag turns it on', async (t) => {
  const docker = (flags: object): unknown => {
    const line = readCommandLine({ dataDir: '/var/lib/stor', ...flags }, {});
    return line.kind === 'formed' ? line.settings.docker : null;
  };
  t.equal(docker({}), undefined);
  t.same(docker({ dockerPlugin: true }), {});
  t.same(docker({ dockerPlugin: 'stor-a' }), { name: 'stor-a' });
});
