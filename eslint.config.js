import importX from 'eslint-plugin-import-x';
import tseslint from 'typescript-eslint';

/** Imports run one way (ARCHITECTURE.md, "The packages"): package -> what it may import of ours. */
const allowedImports = {
  protocol: [],
  runtime: [],
  'raft-ts': [],
  'nbd-client-js': [],
  replicator: ['@stor/protocol', '@stor/runtime'],
  'control-plane': ['@stor/protocol', '@stor/runtime', 'raft-ts'],
  'host-attach': ['@stor/protocol', '@stor/runtime', 'nbd-client-js'],
  'docker-plugin': ['@stor/protocol', '@stor/runtime', '@stor/host-attach'],
  'csi-driver': ['@stor/protocol', '@stor/runtime', '@stor/host-attach'],
  'node-agent': [
    '@stor/protocol',
    '@stor/runtime',
    '@stor/replicator',
    '@stor/control-plane',
    '@stor/host-attach',
    '@stor/docker-plugin',
    '@stor/csi-driver',
    'nbd-client-js',
  ],
  cli: ['@stor/protocol', '@stor/runtime', 'nbd-client-js'],
  sim: [
    '@stor/protocol',
    '@stor/runtime',
    '@stor/replicator',
    '@stor/control-plane',
    '@stor/host-attach',
    '@stor/node-agent',
    'raft-ts',
    'nbd-client-js',
  ],
};
const ours = [
  '@stor/protocol',
  '@stor/runtime',
  '@stor/replicator',
  '@stor/control-plane',
  '@stor/host-attach',
  '@stor/docker-plugin',
  '@stor/csi-driver',
  '@stor/node-agent',
  '@stor/cli',
  '@stor/sim',
  'raft-ts',
  'nbd-client-js',
];

const importDirection = Object.entries(allowedImports).map(([name, allowed]) => ({
  files: [`packages/${name}/src/**/*.ts`],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: ours
          .filter(
            (other) => !allowed.includes(other) && other !== name && other !== `@stor/${name}`,
          )
          .flatMap((other) => [other, `${other}/*`])
          .map((group) => ({
            group: [group],
            message: 'Imports run one way: see ARCHITECTURE.md.',
          })),
      },
    ],
  },
}));

/** `src/core/` holds synchronous state machines: no I/O, no timer, no clock, no chance. */
const pureCore = {
  files: ['packages/*/src/core/**/*.ts'],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: [
          {
            group: ['node:*', 'fs', 'net', 'pino', 'level', '@grpc/*'],
            message: 'src/core/ does no I/O.',
          },
          { group: ['@stor/runtime'], message: 'src/core/ does not touch the machine.' },
        ],
      },
    ],
    'no-restricted-globals': [
      'error',
      ...[
        'setTimeout',
        'setInterval',
        'setImmediate',
        'queueMicrotask',
        'process',
        'performance',
        'fetch',
      ].map((name) => ({ name, message: 'src/core/ takes time, chance and I/O as arguments.' })),
    ],
    'no-restricted-syntax': [
      'error',
      { selector: 'AwaitExpression', message: 'src/core/ is synchronous.' },
      { selector: 'FunctionDeclaration[async=true]', message: 'src/core/ is synchronous.' },
      { selector: 'NewExpression[callee.name="Date"]', message: 'src/core/ reads no clock.' },
      { selector: 'MemberExpression[object.name="Date"]', message: 'src/core/ reads no clock.' },
      {
        selector: 'MemberExpression[object.name="Math"][property.name="random"]',
        message: 'src/core/ draws no chance.',
      },
    ],
  },
};

export default tseslint.config(
  { ignores: ['**/dist/**', '.tap/**', '.stor/**', '**/*.mjs', 'eslint.config.js', '**/*.d.ts'] },
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true } },
    plugins: { 'import-x': importX },
    rules: {
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafeCalls: [
            { from: 'package', package: '@tapjs/core', name: 'test' },
            { from: 'package', package: '@tapjs/test', name: 'test' },
          ],
        },
      ],
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_' },
      ],
      '@typescript-eslint/require-await': 'off',
      'import-x/no-cycle': ['error', { maxDepth: 6 }],
      'max-lines-per-function': ['error', { max: 80, skipBlankLines: true, skipComments: true }],
      'max-lines': ['error', { max: 450, skipBlankLines: true, skipComments: true }],
      eqeqeq: 'error',
    },
  },
  {
    files: ['packages/*/test/**/*.ts', 'test/**/*.ts'],
    rules: {
      'max-lines-per-function': 'off',
      'max-lines': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/unbound-method': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
    },
  },
  ...importDirection,
  // core rules come last: they replace the direction rule, and their list is the stricter one
  pureCore,
);
