/**
 * The page's icons, drawn for it: one stroke, 24 units, no library to download.
 *
 * They are decoration: whoever uses one gives the words.
 */
import type { ReactNode, SVGProps } from "react";

export type IconProps = Omit<SVGProps<SVGSVGElement>, "children"> & { size?: number };

function Drawn({ size = 18, drawing, ...props }: IconProps & { drawing: ReactNode }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth={1.7}
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
      focusable="false"
      {...props}
    >
      {drawing}
    </svg>
  );
}

function icon(drawing: ReactNode) {
  return (props: IconProps) => <Drawn drawing={drawing} {...props} />;
}

export const ArrowUp = icon(<path d="M12 19V5.500M6 11.200 12 5.200l6 6" />);
export const ArrowDown = icon(<path d="M12 5v13.500M6 12.800l6 6 6-6" />);
export const StopSquare = icon(
  <rect x="6.500" y="6.500" width="11" height="11" rx="2" fill="currentColor" />,
);
export const Compose = icon(
  <>
    <path d="M20 12.500V18a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2h5.500" />
    <path d="m17.600 3.900 2.500 2.500L12.500 14l-3.200.7.700-3.200z" />
  </>,
);
export const Pencil = icon(
  <path d="m16.500 4.200 3.300 3.300L8.600 18.700l-4.400 1.100 1.100-4.400zM13.800 6.900l3.300 3.300" />,
);
export const Copy = icon(
  <>
    <rect x="8.500" y="8.500" width="11.500" height="11.500" rx="2.200" />
    <path d="M15.500 5.300V5.200A2.200 2.200 0 0 0 13.300 3H5.200A2.200 2.200 0 0 0 3 5.200v8.100a2.200 2.200 0 0 0 2.200 2.200h.1" />
  </>,
);
export const Check = icon(<path d="m5 12.600 4.600 4.600L19.200 7.400" />);
export const Refresh = icon(
  <>
    <path d="M4.500 12a7.500 7.500 0 0 1 12.900-5.200L20 9.400" />
    <path d="M20 4.800v4.600h-4.600" />
    <path d="M19.500 12a7.500 7.500 0 0 1-12.900 5.200L4 14.600" />
    <path d="M4 19.200v-4.600h4.600" />
  </>,
);
export const ChevronLeft = icon(<path d="m14.500 6-6 6 6 6" />);
export const ChevronRight = icon(<path d="m9.500 6 6 6-6 6" />);
export const ChevronDown = icon(<path d="m6.500 9.500 5.500 5.500 5.500-5.500" />);
export const Close = icon(<path d="M6 6l12 12M18 6 6 18" />);
export const Dots = icon(
  <g fill="currentColor" stroke="none">
    <circle cx="5.500" cy="12" r="1.500" />
    <circle cx="12" cy="12" r="1.500" />
    <circle cx="18.500" cy="12" r="1.500" />
  </g>,
);
export const Search = icon(
  <>
    <circle cx="10.800" cy="10.800" r="6.300" />
    <path d="m15.500 15.500 4.500 4.500" />
  </>,
);
export const Sidebar = icon(
  <>
    <rect x="3.500" y="4.500" width="17" height="15" rx="3" />
    <path d="M9.500 4.500v15" />
  </>,
);
export const MenuLines = icon(<path d="M4 8h16M4 16h11" />);
export const Moon = icon(
  <path d="M19.500 14.300A7.800 7.800 0 0 1 9.700 4.500a7.800 7.800 0 1 0 9.800 9.800z" />,
);
export const Sun = icon(
  <>
    <circle cx="12" cy="12" r="3.800" />
    <path d="M12 3v1.600M12 19.400V21M3 12h1.600M19.400 12H21M5.600 5.600l1.200 1.200M17.200 17.200l1.200 1.200M18.400 5.600l-1.200 1.200M6.800 17.200l-1.200 1.200" />
  </>,
);
export const Screen = icon(
  <>
    <rect x="3.500" y="4.500" width="17" height="11.500" rx="2" />
    <path d="M9 20h6M12 16v4" />
  </>,
);
export const Trash = icon(
  <path d="M4.500 7h15M9.500 7V5.200A1.200 1.200 0 0 1 10.700 4h2.600a1.200 1.200 0 0 1 1.200 1.200V7M6.500 7l.8 11.300A1.800 1.800 0 0 0 9.100 20h5.800a1.800 1.800 0 0 0 1.800-1.700L17.500 7M10.200 11v5M13.800 11v5" />,
);
export const Download = icon(<path d="M12 4v11M7.500 11 12 15.500 16.500 11M5 19.500h14" />);
export const Code = icon(<path d="m8.500 7.500-5 4.500 5 4.500M15.500 7.500l5 4.500-5 4.500" />);
export const SignOut = icon(
  <path d="M14 4.500H7A2.500 2.500 0 0 0 4.500 7v10A2.500 2.500 0 0 0 7 19.500h7M10.500 12h9.500M16.500 8.500 20 12l-3.500 3.500" />,
);
export const Sliders = icon(
  <>
    <path d="M4 8h9M17 8h3M4 16h3M11 16h9" />
    <circle cx="15" cy="8" r="2" />
    <circle cx="9" cy="16" r="2" />
  </>,
);
export const Alert = icon(
  <path d="M12 8.500v4.500M12 16.300v.1M10.400 4.700 3.300 17a1.850 1.850 0 0 0 1.600 2.800h14.200a1.850 1.850 0 0 0 1.600-2.800L13.600 4.700a1.850 1.850 0 0 0-3.200 0z" />,
);
export const Image = icon(
  <>
    <rect x="3.500" y="4.500" width="17" height="15" rx="2.500" />
    <circle cx="9" cy="10" r="1.600" />
    <path d="m4 17 4.800-4 3.200 2.600 3.700-4.100L20 16" />
  </>,
);
export const Clock = icon(
  <>
    <circle cx="12" cy="12" r="7.800" />
    <path d="M12 7.600V12l2.900 1.900" />
  </>,
);
