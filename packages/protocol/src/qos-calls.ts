import type { StorApi } from './api.ts';
import type { ApiCall } from './snapshot-calls.ts';

type QosMethod =
  | 'listPolicies'
  | 'getPolicy'
  | 'createPolicy'
  | 'updatePolicy'
  | 'removePolicy'
  | 'listTenants'
  | 'getTenant'
  | 'setTenant'
  | 'removeTenant'
  | 'listQosClasses'
  | 'setQosClasses';

/** The methods about policies, tenants and classes. */
export function qosCalls(call: ApiCall, newRequestId: () => string): Pick<StorApi, QosMethod> {
  const createPolicy = call('createPolicy');
  return {
    listPolicies: call('listPolicies'),
    getPolicy: call('getPolicy'),
    createPolicy: (request, options) =>
      // one id for all tries: the second try finds the policy of the first
      createPolicy({ ...request, requestId: request.requestId ?? newRequestId() }, options),
    updatePolicy: call('updatePolicy'),
    removePolicy: call('removePolicy'),
    listTenants: call('listTenants'),
    getTenant: call('getTenant'),
    setTenant: call('setTenant'),
    removeTenant: call('removeTenant'),
    listQosClasses: call('listQosClasses'),
    setQosClasses: call('setQosClasses'),
  };
}
