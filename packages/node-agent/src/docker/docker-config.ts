import { checkSocketPath, readDefaults } from '@stor/docker-plugin';
import { StorError } from '@stor/protocol';
import { z } from 'zod';

/** Where dockerd looks first for the plug-in that `--volume-driver NAME` names. */
const pluginFolder = '/run/docker/plugins';
const defaultName = 'stor';

/** The Docker volume plug-in of a node; without it there is none. See docs/operating/docker.md. */
export const dockerConfigSchema = z
  .strictObject({
    /** of the driver; its socket is /run/docker/plugins/NAME.sock @default stor */
    name: z
      .string()
      .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/)
      .optional(),
    /** a socket elsewhere, which a spec file names */
    socket: z.string().startsWith('/').optional(),
    /** a spec file that the agent writes: /etc/docker/plugins/NAME.spec */
    specFile: z.string().startsWith('/').endsWith('.spec').optional(),
    /** as with -o, for what -o does not say when a volume is made: { size: 20GiB, fs: xfs } */
    defaults: z.record(z.string(), z.string()).optional(),
  })
  .superRefine((docker, context) => {
    const { name, socket, specFile, defaults = {} } = docker;
    const wrong = (message: string): void => context.addIssue({ code: 'custom', message });
    if (name !== undefined && socket !== undefined)
      wrong('give name or socket: one says the other');
    if (specFile !== undefined && socket === undefined) wrong('specFile goes with socket');
    try {
      checkSocketPath(dockerSocket(docker));
      readDefaults(defaults);
    } catch (error) {
      wrong(StorError.from(error).message);
    }
  });

export type DockerConfig = z.infer<typeof dockerConfigSchema>;

export function dockerSocket({ name = defaultName, socket }: DockerConfig): string {
  return socket ?? `${pluginFolder}/${name}.sock`;
}
