import type { Clock, Logger, Random } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import { PlacementService } from './placement-service.ts';
import { PolicyService } from './policy-service.ts';
import { QosClassService } from './qos-class-service.ts';
import { TenantService } from './tenant-service.ts';

/** What says where replicas may lie, and what volumes may take. */
export function placingServices(options: {
  store: ClusterStore;
  clock: Clock;
  random: Random;
  logger: Logger;
}): {
  placement: PlacementService;
  policies: PolicyService;
  tenants: TenantService;
  classes: QosClassService;
} {
  return {
    placement: new PlacementService(options),
    policies: new PolicyService(options),
    tenants: new TenantService(options),
    classes: new QosClassService(options),
  };
}
