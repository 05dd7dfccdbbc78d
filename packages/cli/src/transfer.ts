/** Requests of import and export: large enough for the line, small enough to overlap. */
export const transferPieceBytes = 1024 * 1024;
/** Pieces in flight; 16 MiB hide the round trips of three replicas. */
export const transferPieces = 16;

export interface TransferResult {
  /** length of the file or volume */
  bytes: number;
  /** bytes that were sent or stored as data; the rest are zeros that take no space */
  dataBytes: number;
  zeroBytes: number;
  /** of all bytes, zeros included; null unless asked for */
  sha256: string | null;
}
