export * from './call-plugin.ts';
export * from './memory-folders.ts';
export * from './memory-volume-api.ts';
export * from './plugin-compliance.ts';
