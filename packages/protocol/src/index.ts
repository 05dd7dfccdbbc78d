export * from './api.ts';
export * from './byte-size.ts';
export * from './errors.ts';
export * from './ids.ts';
export * from './limits.ts';
export * from './names.ts';
export * from './resources.ts';
