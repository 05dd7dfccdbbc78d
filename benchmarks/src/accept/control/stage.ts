import type { AcceptReport } from '../../harness/accept-report.ts';

/** What each part of `npm run accept -- control` works on. */
export interface ControlStage {
  /** a folder of this part alone */
  dir: string;
  report: AcceptReport;
  /** tries of everything that is measured several times */
  tries: number;
  /** figures that are kept, by name; times in ms unless the name says otherwise */
  figures: Record<string, number>;
}
