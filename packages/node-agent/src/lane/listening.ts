import { StorError } from '@stor/protocol';

/** Opens a listener; a port that is taken becomes a message that says which and what to do. */
export async function listening<T>(
  what: string,
  host: string,
  port: number,
  open: () => Promise<T>,
): Promise<T> {
  try {
    return await open();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'EADDRINUSE') {
      throw new StorError(
        'IN_USE',
        `the ${what} port ${host}:${port} is in use by another process: stop it, or change the port in the config`,
        { cause: error },
      );
    }
    throw new StorError(
      'FAILED_PRECONDITION',
      `cannot listen for ${what} on ${host}:${port}: ${message}`,
      {
        cause: error,
      },
    );
  }
}
