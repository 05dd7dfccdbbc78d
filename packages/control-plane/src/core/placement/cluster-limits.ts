import { StorError } from '@stor/protocol';
import type { ClusterSettings } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';

/** What holds until somebody says otherwise (DESIGN section 8). */
export const defaultSettings: ClusterSettings = {
  overprovisionPercent: 1_000,
  repairReservePercent: 10,
};

/** At least what the disk has, and at most what nobody would call a promise any more (%). */
const minOverprovisionPercent = 100;
const maxOverprovisionPercent = 100_000;
const maxRepairReservePercent = 50;

export function settingsOf(state: ClusterState): ClusterSettings {
  return { ...defaultSettings, ...state.settings?.value };
}

/** The settings with changes (null or absent: as it is). INVALID_ARGUMENT says what it may be. */
export function changedSettings(
  settings: ClusterSettings,
  changes: { [K in keyof ClusterSettings]?: number | null },
): ClusterSettings {
  const overprovisionPercent = changes.overprovisionPercent ?? settings.overprovisionPercent;
  const repairReservePercent = changes.repairReservePercent ?? settings.repairReservePercent;
  check('over-provisioning', overprovisionPercent, [
    minOverprovisionPercent,
    maxOverprovisionPercent,
  ]);
  check('repair reserve', repairReservePercent, [0, maxRepairReservePercent]);
  return { ...settings, overprovisionPercent, repairReservePercent };
}

function check(what: string, percent: number, [least, most]: [number, number]): void {
  if (Number.isInteger(percent) && percent >= least && percent <= most) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `${what} of ${percent}% is not possible: use whole percents from ${least}% to ${most}%`,
  );
}
