import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';

const bootMs = 60_000;
const commandMs = 120_000;
/** Of what the guest says so much is kept for a message (characters). */
const keptChars = 4_000;

/** A virtual machine that carries out one command after another, by its serial port. */
export class Guest {
  readonly #machine: ChildProcessWithoutNullStreams;
  readonly #exited: Promise<void>;
  #said = '';
  #look: () => void = () => {};

  private constructor(machine: ChildProcessWithoutNullStreams) {
    this.#machine = machine;
    this.#exited = new Promise((resolve) => machine.once('exit', () => resolve()));
    machine.stdin.on('error', () => {});
    for (const stream of [machine.stdout, machine.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#said += text;
        this.#look();
      });
    }
  }

  static async boot(kernel: string, initrd: string): Promise<Guest> {
    const guest = new Guest(
      spawn('qemu-system-x86_64', [
        ...[
          '-machine',
          'q35',
          '-accel',
          'tcg,thread=multi',
          '-cpu',
          'max',
          '-smp',
          '2',
          '-m',
          '1536',
        ],
        ...['-nographic', '-nodefaults', '-no-reboot', '-serial', 'stdio'],
        ...['-nic', 'user,model=virtio-net-pci', '-kernel', kernel, '-initrd', initrd],
        // the serial port is for what commands print: the kernel's messages would end up in the middle of it
        ...['-append', 'console=ttyS0 quiet loglevel=1 panic=-1 rdinit=/init'],
      ]),
    );
    try {
      await guest.#until(/@ready\r?\n/, bootMs);
      return guest;
    } catch (error) {
      await guest.close();
      throw error;
    }
  }

  /** What it printed; throws unless it ends with 0. */
  async run(line: string): Promise<string> {
    this.#said = '';
    this.#machine.stdin.write(`${line}\n`);
    const [, text = '', code] = await this.#until(/^([^]*?)@end (\d+)\r?\n/, commandMs);
    if (code === '0') return text.trim();
    throw new Error(`in the guest: ${line}\nended with ${code}:\n${text}`);
  }

  async close(): Promise<void> {
    this.#machine.kill('SIGKILL');
    await this.#exited;
  }

  async #until(pattern: RegExp, ms: number): Promise<RegExpExecArray> {
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        const fail = (why: string): void => {
          reject(new Error(`${why}; the guest said last:\n${this.#said.slice(-keptChars)}`));
        };
        timer = setTimeout(() => fail(`nothing like ${pattern} within ${ms} ms`), ms);
        void this.#exited.then(() => fail('the virtual machine has ended'));
        this.#look = () => {
          const found = pattern.exec(this.#said);
          if (found) resolve(found);
        };
        this.#look();
      });
    } finally {
      clearTimeout(timer);
      this.#look = () => {};
    }
  }
}
