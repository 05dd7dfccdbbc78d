import { optionReplyType, optionType } from 'nbd-client-js';

/** Whether connections are encrypted: never, when the client asks for it, or always. */
export type TlsMode = 'off' | 'allowed' | 'required';

export interface OptionRefusal {
  /** a value of `optionReplyType` */
  type: number;
  message: string;
}

/**
 * What stands before every option of a handshake: TLS, and that the server stays. ABORT always passes;
 * nothing about any export is said or looked at for an option that does not.
 */
export class TlsGate {
  readonly #mode: TlsMode;
  #isSecure = false;
  #isStopping = false;

  constructor(mode: TlsMode) {
    this.#mode = mode;
  }

  /** From now on what is read came over TLS. */
  secured(): void {
    this.#isSecure = true;
  }

  /** From now on no option is granted. */
  stop(): void {
    this.#isStopping = true;
  }

  /** Null: the option may go on. For STARTTLS that means it is granted. */
  refusalOf(option: number): OptionRefusal | null {
    if (option === optionType.abort) return null;
    if (this.#isStopping) {
      return { type: optionReplyType.errShutdown, message: 'this server is stopping' };
    }
    if (option === optionType.starttls) return this.#startRefusal();
    if (this.#isSecure || this.#mode !== 'required') return null;
    return {
      type: optionReplyType.errTlsReqd,
      message: 'this server requires TLS: begin with STARTTLS (nbds://)',
    };
  }

  #startRefusal(): OptionRefusal | null {
    if (this.#isSecure) return { type: optionReplyType.errInvalid, message: 'this is TLS already' };
    if (this.#mode !== 'off') return null;
    return { type: optionReplyType.errUnsup, message: 'this server has no TLS' };
  }
}
