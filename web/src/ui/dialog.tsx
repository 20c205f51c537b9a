/**
 * Dialogs and menus: Radix's behaviour (focus, Escape, roles), our looks.
 */
import { Dialog as Radix, DropdownMenu as RadixMenu } from "radix-ui";
import type { ReactNode } from "react";
import { strings } from "../strings";
import { IconButton } from "./button";
import { cx } from "./cx";
import { Close } from "./icons";

interface DialogProps {
  open: boolean;
  onOpenChange: (open: boolean) => void;
  title: string;
  description?: string | undefined;
  children?: ReactNode;
  wide?: boolean;
}

/** A card in the middle of a desktop, a sheet at the bottom of a phone. */
export function Dialog({ open, onOpenChange, title, description, children, wide = false }: DialogProps) {
  return (
    <Radix.Root open={open} onOpenChange={onOpenChange}>
      <Radix.Portal>
        <Radix.Overlay className="fixed inset-0 z-40 animate-fade bg-black/35 dark:bg-black/55" />
        <Radix.Content
          {...(description === undefined ? { "aria-describedby": undefined } : {})}
          className={cx(
            "fixed z-50 flex max-h-[88dvh] w-full animate-appear flex-col gap-4 overflow-y-auto bg-surface p-5",
            "border-line shadow-pop max-sm:inset-x-0 max-sm:bottom-0 max-sm:rounded-t-2xl max-sm:border-t",
            "max-sm:pb-[max(1.25rem,env(safe-area-inset-bottom))]",
            "sm:inset-x-0 sm:top-[12vh] sm:mx-auto sm:rounded-2xl sm:border",
            wide ? "sm:max-w-xl" : "sm:max-w-md",
          )}
        >
          <div className="flex items-start justify-between gap-3">
            <Radix.Title className="pt-1 text-[15px] font-semibold tracking-tight">{title}</Radix.Title>
            <Radix.Close asChild>
              <IconButton label={strings.api.close} className="-mt-0.5 -mr-1.5">
                <Close />
              </IconButton>
            </Radix.Close>
          </div>
          {description !== undefined && (
            <Radix.Description className="-mt-2 text-sm leading-relaxed text-muted">
              {description}
            </Radix.Description>
          )}
          {children}
        </Radix.Content>
      </Radix.Portal>
    </Radix.Root>
  );
}

/** The list of chats on a phone: slides in from the left. */
export function Drawer({
  open,
  onOpenChange,
  title,
  children,
}: Pick<DialogProps, "open" | "onOpenChange" | "title"> & { children: ReactNode }) {
  return (
    <Radix.Root open={open} onOpenChange={onOpenChange}>
      <Radix.Portal>
        <Radix.Overlay className="fixed inset-0 z-40 animate-fade bg-black/35 dark:bg-black/55" />
        <Radix.Content
          aria-describedby={undefined}
          className="fixed inset-y-0 left-0 z-50 w-[min(86vw,320px)] animate-drawer bg-sunken shadow-pop"
        >
          <Radix.Title className="sr-only">{title}</Radix.Title>
          {children}
        </Radix.Content>
      </Radix.Portal>
    </Radix.Root>
  );
}

export const Menu = RadixMenu.Root;
export const MenuTrigger = RadixMenu.Trigger;
export const MenuRadioGroup = RadixMenu.RadioGroup;

export function MenuContent({
  children,
  align = "end",
  side = "bottom",
  onCloseAutoFocus,
}: {
  children: ReactNode;
  align?: "start" | "end";
  side?: "bottom" | "top";
  onCloseAutoFocus?: (event: Event) => void;
}) {
  return (
    <RadixMenu.Portal>
      <RadixMenu.Content
        align={align}
        side={side}
        sideOffset={6}
        collisionPadding={8}
        {...(onCloseAutoFocus ? { onCloseAutoFocus } : {})}
        className="z-50 min-w-44 animate-fade rounded-xl border border-line bg-surface p-1 shadow-pop"
      >
        {children}
      </RadixMenu.Content>
    </RadixMenu.Portal>
  );
}

const item =
  "flex h-8 cursor-pointer select-none items-center gap-2.5 rounded-lg px-2.5 text-[13px] outline-none " +
  "data-highlighted:bg-hover touch:h-11 [&>svg]:text-muted";

export function MenuItem({
  children,
  onSelect,
  danger = false,
  href,
}: {
  children: ReactNode;
  onSelect?: (event: Event) => void;
  danger?: boolean;
  /** Makes the item a link that downloads. */
  href?: string;
}) {
  const className = cx(item, danger && "text-danger [&>svg]:text-danger");
  const props = onSelect ? { onSelect } : {};
  return href === undefined ? (
    <RadixMenu.Item className={className} {...props}>
      {children}
    </RadixMenu.Item>
  ) : (
    <RadixMenu.Item className={className} asChild {...props}>
      <a href={href} download>
        {children}
      </a>
    </RadixMenu.Item>
  );
}

export function MenuRadio({ value, children }: { value: string; children: ReactNode }) {
  return (
    <RadixMenu.RadioItem value={value} className={cx(item, "data-[state=checked]:font-medium")}>
      {children}
    </RadixMenu.RadioItem>
  );
}

export function MenuLabel({ children }: { children: ReactNode }) {
  return (
    <RadixMenu.Label className="px-2.5 pt-2 pb-1 text-xs font-medium text-muted">{children}</RadixMenu.Label>
  );
}

export function MenuLine() {
  return <RadixMenu.Separator className="mx-1 my-1 h-px bg-line" />;
}
