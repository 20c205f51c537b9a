/**
 * Who is signed in, the theme, the API, signing out.
 */
import { useApp } from "../context";
import { strings } from "../strings";
import {
  Menu,
  MenuContent,
  MenuItem,
  MenuLabel,
  MenuLine,
  MenuRadio,
  MenuRadioGroup,
  MenuTrigger,
} from "../ui/dialog";
import { Check, ChevronDown, Code, Moon, Screen, SignOut, Sun } from "../ui/icons";
import { type Theme, useTheme } from "../ui/theme";

const t = strings.settings;
const THEMES: [Theme, typeof Sun][] = [
  ["system", Screen],
  ["light", Sun],
  ["dark", Moon],
];

export function SettingsMenu({ onApi, onSignOut }: { onApi: () => void; onSignOut: () => void }) {
  const { session } = useApp();
  const { theme, choose } = useTheme();
  return (
    <Menu>
      <MenuTrigger className="flex h-10 w-full items-center gap-2.5 rounded-lg px-2 text-left text-sm hover:bg-hover data-[state=open]:bg-hover touch:h-12">
        <span
          aria-hidden="true"
          className="flex size-6 shrink-0 items-center justify-center rounded-full bg-lamp-soft text-xs font-semibold text-lamp-ink"
        >
          {session.principal.name.charAt(0).toUpperCase()}
        </span>
        <span className="min-w-0 flex-1 truncate">{session.principal.name}</span>
        <span className="sr-only">{t.menu}</span>
        <ChevronDown size={15} className="rotate-180 text-faint" />
      </MenuTrigger>
      <MenuContent side="top" align="start">
        <MenuLabel>{t.theme}</MenuLabel>
        <MenuRadioGroup value={theme} onValueChange={(value) => choose(value as Theme)}>
          {THEMES.map(([name, Icon]) => (
            <MenuRadio key={name} value={name}>
              <Icon size={16} />
              <span className="flex-1">{t.themes[name]}</span>
              {theme === name && <Check size={15} />}
            </MenuRadio>
          ))}
        </MenuRadioGroup>
        <MenuLine />
        <MenuItem onSelect={onApi}>
          <Code size={16} />
          {t.api}
        </MenuItem>
        <MenuItem onSelect={onSignOut}>
          <SignOut size={16} />
          {t.signOut}
        </MenuItem>
        <p className="px-2.5 pt-1 pb-1.5 text-xs text-muted">
          {strings.app.name} {session.version}
        </p>
      </MenuContent>
    </Menu>
  );
}
